"""Any optimizer of torch by the name of its class, its options checked against the class' own signature."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any

import torch

from llmx.errors import RecipeError
from llmx.options import structure_value
from llmx_optimizers.groups import decay_groups
from llmx_optimizers.rates import with_rate

if TYPE_CHECKING:
    from torch import nn

    from llmx_optimizers import TorchOptions

UNFIT = {
    "LBFGS": "it evaluates the loss several times in a step",
    "SparseAdam": "it takes sparse gradients alone",
    "Rprop": "its steps have sizes of their own, and the scheduler's rate does not reach them",
    "Muon": 'it takes matrices alone: set optimizer.name = "muon"',
}
"""Classes that cannot take the step of a run, and why."""

OURS = ("self", "params", "lr", "weight_decay")
"""Arguments that are not in the table of options: the run's own, or options beside it."""


def torch_optim(options: TorchOptions, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over groups of which only "decay" decays.

    Raises:
        RecipeError: torch has no such class, or the class takes no such option or value.
    """
    cls = _class(options.algorithm)
    accepted = inspect.signature(cls).parameters
    values = _checked(cls, options)
    decay = accepted["weight_decay"].default if options.weight_decay is None else options.weight_decay
    groups = decay_groups(model, decay, options.embedding_lr)
    groups = with_rate(groups, accepted["lr"].default if options.lr is None else options.lr, model)
    if "lambd" in accepted:  # ASGD's other decay
        groups = [group if group["name"] == "decay" else {**group, "lambd": 0.0} for group in groups]
    meta = any(each.device.type == "meta" for group in groups for each in group["params"])
    try:
        return (_planned(cls) if meta else cls)(groups, **values)
    except (ValueError, TypeError, RuntimeError) as error:  # how torch refuses a value that its class cannot take
        raise RecipeError(f"optimizer.options: {options.algorithm} refuses: {error}") from error


def _class(name: str) -> type[torch.optim.Optimizer]:
    base = torch.optim.Optimizer
    known = {
        key: each
        for key, each in vars(torch.optim).items()
        if isinstance(each, type) and issubclass(each, base) and each is not base and key not in UNFIT
    }
    if name in UNFIT:
        raise RecipeError(f"optimizer.algorithm = {name!r}: {UNFIT[name]}")
    if name not in known:
        lowered = {key.lower(): key for key in known}
        near = [lowered[each] for each in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)]
        nearest, there = f"nearest: {near[0]}; " if near else "", ", ".join(sorted(known))
        raise RecipeError(f"optimizer.algorithm = {name!r}: torch.optim has no such class; {nearest}there are {there}")
    return known[name]


def _checked(cls: type[torch.optim.Optimizer], options: TorchOptions) -> dict[str, Any]:
    """Return the table of options as arguments of the class.

    Raises:
        RecipeError: with a line for each option that the class has not, or has with another type.
    """
    wanted, faults = option_types(cls), []
    values: dict[str, Any] = {}
    for name, value in options.options.items():
        where = f"optimizer.options.{name}"
        if name in OURS:
            faults.append(f"{where}: give optimizer.{name} instead" if name != "params" else f"{where}: is the model's")
        elif name not in wanted:
            faults.append(f"{where}: {options.algorithm} has no such option; it has {', '.join(wanted)}")
        else:
            try:
                values[name] = structure_value(value, wanted[name])
            except TypeError as error:
                faults.append(f"{where} {error}")
    if faults:
        raise RecipeError(*faults)
    return values


def option_types(cls: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return the options that a class takes beside its rate and decay, each with the type that it declares."""
    hints = typing.get_type_hints(cls.__init__)
    return {
        name: _plain(hints.get(name, type(each.default)))
        for name, each in inspect.signature(cls).parameters.items()
        if name not in OURS
    }


def _planned(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return a class whose step on the meta device makes its state, also where the step itself needs numbers."""

    def step(self: Any) -> None:
        groups = self.param_groups
        for group in groups:
            self.param_groups = [group]
            try:
                cls.step(self)
            except RuntimeError:  # a meta tensor has no number: by then the state of the group is there
                if any(each.grad is not None and not self.state[each] for each in group["params"]):
                    raise
            finally:
                self.param_groups = groups

    return type(cls.__name__, (cls,), {"step": step})


def _plain(hint: Any) -> Any:
    """Return a type without the tensors that torch takes for numbers besides."""
    args = [_plain(each) for each in typing.get_args(hint) if each is not torch.Tensor]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.Union[tuple(args)]  # noqa: UP007  # made of a list
    return tuple[tuple(args)] if typing.get_origin(hint) is tuple else hint  # type: ignore[misc]
