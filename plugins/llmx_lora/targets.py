"""Which modules of a model an adapter is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from torch import nn

from llmx.errors import RecipeError
from llmx.protocols import Role
from llmx_lora.linear import LoraLinear


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a module's name fits a pattern, whole or by its last parts: "q_proj", "mlp.*", "*.layers.0.*"."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)


def linears(model: Any) -> dict[str, nn.Module]:
    """Return the linear layers by name: torch's, and those that a quantiser put in their place.

    Raises:
        RecipeError: one has a change of low rank already.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            raise RecipeError(f"adapter.lora: {name} has one already: name `lora` once")
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            found[name] = module
    return found


def role_of(name: str, roles: dict[str, Role]) -> Role:
    """Return the role of a linear layer's weight; what is packed away has none, and stood in a block."""
    return roles.get(f"{name}.weight", "hidden")


def hidden_linears(model: Any, skip: Sequence[str]) -> list[tuple[str, nn.Linear]]:
    """Return the plain linear layers of the blocks that no pattern leaves out.

    Raises:
        RecipeError: there is none.
    """
    roles = model.roles()
    inside = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and role_of(name, roles) == "hidden"
    ]
    found = [(name, module) for name, module in inside if not fits(name, skip)]
    if not found:
        what = "its patterns fit every one" if inside else _transposed(model) or "there is none"
        raise RecipeError(f"adapter: skip = {list(skip)}: no linear layer is left to quantise: {what}")
    return found


def _transposed(model: Any) -> str:
    """Return that a model multiplies in its blocks with something else than linear layers, empty where it does not."""
    if any(type(each).__name__ == "Conv1D" for each in model.modules()):
        return f"the layers of {type(model).__name__}'s blocks are Conv1D, not Linear, and are not adapted"
    return ""


def chosen(model: Any, targets: Sequence[str]) -> list[str]:
    """Return the names of the linear layers that roles and patterns mean, in the model's order.

    Raises:
        RecipeError: one of them means none.
    """
    layers, roles = linears(model), model.roles()
    for target in targets:
        if not any(_means(target, name, roles) for name in layers):
            there = sorted({name.rpartition(".")[2] for name in layers})
            others = [(name, each) for name, each in model.named_modules() if name and fits(name, [target])]
            why = "matches no layer"
            if others:
                name, other = others[0]
                what = "a Conv1D, no linear layer" if type(other).__name__ == "Conv1D" else "no linear layer"
                why = f"{name} is {what} (modules_to_save trains it whole)"
            elif _transposed(model):
                why = f"matches no linear layer: {_transposed(model)}"
            known = (
                f"there are {', '.join(there)}, and the roles hidden and head" if there else "there is no linear layer"
            )
            raise RecipeError(f"adapter.lora.targets: {target!r}: {why}; {known}")
    return [name for name in layers if any(_means(target, name, roles) for target in targets)]


def _means(target: str, name: str, roles: dict[str, Role]) -> bool:
    return role_of(name, roles) == target if target in get_args(Role) else fits(name, [target])


def chosen_whole(model: Any, patterns: Sequence[str]) -> list[str]:
    """Return the names of the modules with weights of their own that patterns mean, in the model's order.

    Raises:
        RecipeError: a pattern means none.
    """
    named = [
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and not hasattr(module, "dense")
    ]
    for pattern in patterns:
        if not any(fits(name, [pattern]) for name in named):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in named}))
            raise RecipeError(
                f"adapter.lora.modules_to_save: {pattern!r}: matches no module with plain weights; there are {there}"
            )
    return [name for name in named if fits(name, patterns)]


def put(model: Any, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
