"""A small tokenizer, and a small real run with one part under check."""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import define, field

from llmx import folder as folders
from llmx.assembly import Run, assemble
from llmx.corpora import data_facts
from llmx.layers import Layer
from llmx.recipe import Part, Recipe
from llmx.registry import Registry
from llmx.testing.accounts import no_account
from llmx.testing.corpus import prose
from llmx.train import checkpoint
from llmx.train.export import export
from llmx.train.hooks import RunHooks
from llmx.train.loop import Trainer

STEPS, EVALUATED, SAVED, KILLED = 12, 3, 6, 8
"""Updates of the small run, between evaluations, and between checkpoints; after KILLED a copy of it is taken."""

Around = Callable[[str, Mapping[str, Any]], AbstractContextManager[None]]
"""Called with the name and the arguments of each announcement; it happens within the context."""


class TinyTokenizer:
    """Bytes as ids, folded into a vocabulary of any size; the last two ids are bos and eos."""

    def __init__(self, vocab_size: int = 258) -> None:
        self.vocab_size = vocab_size
        self.bos_id: int | None = vocab_size - 2
        self.eos_id: int | None = vocab_size - 1

    def special_id(self, token: str) -> int | None:
        return None

    def encode_markup(self, text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        return [byte % (self.vocab_size - 2) for byte in text.encode("utf-8", "replace")]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(each for each in ids if each < min(256, self.vocab_size - 2)).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        (folder / "size.txt").write_text(str(self.vocab_size), encoding="utf-8")


class WatchedHooks(RunHooks):
    """The hooks of a run with something around each announcement."""

    def __init__(self, hooks: RunHooks, around: Around) -> None:
        self._manager = hooks._manager
        self.around = around

    def announce(self, event: str, **arguments: Any) -> None:
        with self.around(event, arguments):
            super().announce(event, **arguments)


def unwatched(_: str, __: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Put nothing around an announcement."""
    return nullcontext()


@functools.cache
def registry() -> Registry:
    """Return what is installed; it is looked up once."""
    return Registry()


def recipe(folder: Path, part: Part | None, **sections: Any) -> Recipe:
    """Return the recipe of a small run on a text that is written beside the run folder, with a logger or callback."""
    corpus = folder.parent / "corpus.txt"
    if not corpus.exists():
        corpus.write_text("\x1d".join(prose()[:12]), encoding="utf-8")
    values = {
        "model": {"name": "llmx:tinyllm", "preset": "nano"},
        "tokenizer": "llmx:char",
        "data": {"name": "llmx:text", "path": str(corpus), "separator": "\x1d", "held_out": 0.2},
        "optimizer": {"name": "llmx:adamw", "lr": 5e-3},
        "train": {"steps": STEPS, "tokens_per_update": 512, "precision": "fp32", "device": "cpu"},
        "eval": {"every": EVALUATED, "tokens": 512},
        "checkpoint": {"every": SAVED},
        "generate": {"samples": 1, "max_new_tokens": 8},
        "logger": [],
    }
    resolved = Recipe.resolve([Layer("the conformance kit", values), Layer("the check", sections)], registry())
    if part is None:
        return resolved
    return (
        attrs.evolve(resolved, loggers=(part,)) if part.kind == "logger" else attrs.evolve(resolved, callbacks=(part,))
    )


@define
class SmallRun:
    """A small real run with a logger or a callback, or with neither.

    Attributes:
        folder: the run folder; the corpus and the cache lie beside it.
        part: the logger or callback.
        sections: what the recipe says otherwise, by section.
        resumed: the folder holds a run to go on with.
    """

    folder: Path
    part: Part | None
    sections: dict[str, Any] = field(factory=dict)
    resumed: bool = False
    run: Run = field(init=False)
    trainer: Trainer = field(init=False)

    def __attrs_post_init__(self) -> None:
        with surroundings(self.folder):
            made = recipe(self.folder, self.part, **self.sections)
            self.run = assemble(made, registry(), self.folder, resumed=self.resumed)

    @property
    def listener(self) -> Any:
        """The logger or callback that was built."""
        return self.run.hooks._listeners()[0][1]

    def train(self, around: Around | None = None) -> Run:
        """Train to the end and export, as `llmx.run` does."""
        run = self.run
        if around is not None:
            run.hooks = WatchedHooks(run.hooks, around)
        with surroundings(self.folder):
            self.trainer = Trainer(run)
            if self.resumed:
                newest = checkpoint.latest(self.folder / "checkpoints")
                assert newest is not None
                self.trainer.resume(newest)
            else:
                facts = {"id": run.id, **data_facts(run.tokens_folders), "device": str(run.device)}
                # without the part, whose distribution need not be installed to be checked
                folders.create(
                    self.folder, attrs.evolve(run.recipe, loggers=(), callbacks=()), run.tokenizer, run.template, facts
                )
            try:
                self.trainer.train()
                export(run)
                run.hooks.announce("llmx_after_run", run=run)
            except BaseException as error:
                if isinstance(run.hooks, WatchedHooks):
                    run.hooks.around = unwatched  # what was found first is what is told
                run.hooks.announce("llmx_run_failed", run=run, error=error)
                raise
        return run

    def checkpoint(self) -> dict[str, Any]:
        """Return all but the weights of the newest checkpoint."""
        newest = checkpoint.latest(self.folder / "checkpoints")
        assert newest is not None, "the run wrote no checkpoint"
        return checkpoint.load(newest)[1]


def small_run(part: Part | None, folder: Path, **sections: Any) -> SmallRun:
    """Return a small run in a folder that does not exist yet, whose parent does."""
    return SmallRun(folder, part, sections)


def killed_and_resumed(part: Part, folder: Path) -> tuple[SmallRun, SmallRun | None]:
    """Train undisturbed, and beside it go on from what was on disk after update KILLED.

    Nothing is closed or written in the folder that the second goes on in: it is what a killed process leaves.

    Returns:
        The run that was never killed and the one that was; None where it ended before it could be.
    """
    whole, copy = small_run(part, folder / "whole"), folder / "killed"

    @contextmanager
    def around(event: str, _: Mapping[str, Any]) -> Iterator[None]:
        yield
        if event == "llmx_after_step" and whole.run.state.step == KILLED:
            shutil.copytree(whole.folder, copy)

    whole.train(around)
    if not copy.exists():
        return whole, None
    killed = SmallRun(copy, part, resumed=True)
    killed.train()
    return whole, killed


@contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Keep prepared data beside a run folder, what a part prints from the screen, and its client from accounts."""
    before = os.environ.get("LLMX_CACHE")
    os.environ["LLMX_CACHE"] = str(folder.parent / "cache")
    try:
        with (
            no_account(),
            Path(os.devnull).open("w", encoding="utf-8") as sink,
            redirect_stdout(sink),
            redirect_stderr(sink),
        ):
            yield
    finally:
        del os.environ["LLMX_CACHE"]
        if before is not None:
            os.environ["LLMX_CACHE"] = before


def random_states() -> tuple[list[int], Any]:
    """Return the state of the global generators, comparable."""
    return torch.get_rng_state().tolist(), random.getstate()


def copies(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict that stays as it is."""
    return {name: weight.detach().clone() for name, weight in weights.items()}


def unequal_weights(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of a tensor that is not bitwise the same in two state dicts; None where all are."""
    if first.keys() != second.keys():
        return ", ".join(sorted(first.keys() ^ second.keys()))
    return next((name for name, weight in first.items() if not torch.equal(weight, second[name])), None)
