"""What each kind of part is when an object stands for it: the target of its contract, with the object checked."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmx import hookimpl, pretrained
from llmx.errors import CheckpointError, RecipeError
from llmx.given.component import GivenParts, place_in_code, require_contract
from llmx.given.loss import objective_of
from llmx.given.schedule import TorchSchedule
from llmx.protocols import Adapter, Model, Schedule, Template, Tokenizer


def given_table(parts: GivenParts, kind: str, thing: Any) -> dict[str, str]:
    """Offer an object as a part, and return the table that names it in a recipe.

    Raises:
        RecipeError: it does not keep the contract of its kind; the message says what it lacks.
    """
    if kind not in TARGETS:
        raise RecipeError(f"{kind}: no such part; there are {', '.join(TARGETS)}")
    return parts.add(kind, thing, TARGETS[kind](thing))


def _model(model: Any) -> Any:
    """Take a model, or a function of the vocabulary's size that makes one."""
    if isinstance(model, nn.Module):
        require_contract("model", model, Model)
    elif not callable(model):
        raise RecipeError(f"model: a {type(model).__name__} is no nn.Module, no name and no folder")

    def build(_: Any, *, vocab_size: int) -> Model:
        built = model if isinstance(model, nn.Module) else model(vocab_size)
        require_contract("model", built, Model)
        if not isinstance(built, nn.Module):
            raise RecipeError(f"model: {place_in_code(model)[1]} gave a {type(built).__name__}, no nn.Module")
        found = cast(Model, built)
        if found.vocab_size < vocab_size:
            raise RecipeError(
                f"model: {type(built).__name__} has {found.vocab_size} ids, the tokenizer {vocab_size}: give a "
                "function of the vocabulary's size, or another tokenizer"
            )
        return found

    return build


class _GivenTokenizer:
    """The target of a tokenizer that is there already."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def build(self, _: Any, __: Iterable[str]) -> Tokenizer:
        """Return it; it learns nothing."""
        return self.tokenizer

    def load(self, folder: Path) -> Tokenizer:
        """Return it, if it is the one in a folder.

        Raises:
            CheckpointError: its files are others.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.tokenizer.save(Path(scratch))
            files = pretrained.tokenizer_files(Path(scratch))
            wrong = next((f.name for f in files if _without(folder / f.name) != f.read_bytes()), None)
        if wrong is not None and wrong != pretrained.TOKENIZER_CONFIG:  # which the core completes
            raise CheckpointError(f"{folder}: {wrong} is not what the tokenizer given saves: give that of the run")
        return self.tokenizer


def _without(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _tokenizer(tokenizer: Any) -> Any:
    require_contract("tokenizer", tokenizer, Tokenizer)
    return _GivenTokenizer(tokenizer)


def _objective(loss: Any) -> Any:
    objective = objective_of(loss)
    return lambda _: objective


def _optimizer(optimizer: Any) -> Any:
    """Take an optimizer of the model that is given, a class of torch, or a function of the model."""
    if not (isinstance(optimizer, Optimizer) or callable(optimizer)):
        raise RecipeError(f"optimizer: a {type(optimizer).__name__} is no torch.optim.Optimizer, no function, no name")

    def build(_: Any, model: nn.Module) -> Optimizer:
        built = optimizer
        if isinstance(optimizer, type):
            built = optimizer([each for each in model.parameters() if each.requires_grad])
        elif not isinstance(optimizer, Optimizer):
            built = optimizer(model)
        if not isinstance(built, Optimizer):
            raise RecipeError(f"optimizer: gave a {type(built).__name__}: must be a torch.optim.Optimizer")
        _require_parameters(built, model)
        for group in built.param_groups:  # what a scheduler or a run before this one has made of it
            group["lr"] = group.get("initial_lr", group["lr"])
        return built

    return build


def _require_parameters(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that an optimizer moves what is trained of a model, and nothing else."""
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    strangers = held - {id(each) for each in model.parameters()}
    if strangers:
        raise RecipeError(
            f"optimizer: {len(strangers)} of its {len(held)} parameters are not the model's: make it of the model that "
            "is given, or give a function of the model"
        )
    lacking = [name for name, each in trained.items() if id(each) not in held]
    if lacking:
        raise RecipeError(
            f"optimizer: lacks {len(lacking)} of the {len(trained)} parameters that are trained, such as {lacking[0]}: "
            "give it all, or set requires_grad of those to False"
        )


def _scheduler(scheduler: Any) -> Any:
    """Take a scheduler of torch, a function of the optimizer that makes one, or a function of the step."""
    if not isinstance(scheduler, LRScheduler) and not callable(scheduler):
        raise RecipeError(f"scheduler: a {type(scheduler).__name__} is no function of the step, no scheduler, no name")
    names = [] if isinstance(scheduler, LRScheduler) else _required(scheduler)
    if not names or names[0].startswith("opt"):
        bound = TorchSchedule(scheduler)
        return lambda _, __: bound

    def build(_: Any, total_steps: int) -> Schedule:
        schedule = (lambda step: scheduler(step, total_steps)) if len(names) > 1 else scheduler
        factor = schedule(0)
        if not isinstance(factor, int | float):
            raise RecipeError(f"scheduler: gave a {type(factor).__name__} for step 0: must be a factor on the rate")
        return cast(Schedule, schedule)

    return build


def _required(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that a function must be given."""
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.default is each.empty and each.kind in (0, 1)]


class _AfterStep:
    """A function that is called after every step, as a callback."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    @hookimpl
    def llmx_after_step(self, run: Any, metrics: dict[str, float]) -> None:
        self.function(run, metrics)


def _callback(callback: Any) -> Any:
    hooks = [name for name in dir(callback) if hasattr(getattr(callback, name, None), "llmx_impl")]
    if not hooks and not inspect.isroutine(callback):
        raise RecipeError(
            f"callbacks: {type(callback).__name__} has no method marked with @llmx.hookimpl, and is no function "
            "(run, metrics)"
        )
    listener = callback if hooks else _AfterStep(callback)
    return lambda _, __: listener


def _kept(what: str, contract: type) -> Callable[[Any], Any]:
    """Return the function that takes an object of a contract for the part itself."""

    def target(thing: Any) -> Any:
        require_contract(what, thing, contract)
        return lambda *_: thing

    return target


def _sampler(sampler: Any) -> Any:
    if not callable(sampler):
        raise RecipeError(f"sampler: a {type(sampler).__name__} cannot be called: see llmx.protocols.Sampler")
    return lambda *_: sampler


TARGETS: dict[str, Callable[[Any], Any]] = {
    "model": _model,
    "tokenizer": _tokenizer,
    "dataset": lambda dataset: lambda _: dataset,
    "objective": _objective,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "callback": _callback,
    "logger": _callback,
    "adapter": _kept("adapter", Adapter),
    "template": _kept("template", Template),
    "sampler": _sampler,
}
