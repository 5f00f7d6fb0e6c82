"""Parameter groups: which parameters of a model decay."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, get_args

from llmx.errors import PluginError, RecipeError
from llmx.protocols import Role

if TYPE_CHECKING:
    from torch import nn

DECAYING = frozenset({"hidden", "head"})
"""Roles that decay: the matrices that multiply activations. An embedding's row has a gradient only when its token
occurs, so decay would mostly shrink rare tokens; norms and biases have few numbers and a scale that means something."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name.

    Raises:
        PluginError: `model.roles()` leaves a parameter out or gives it a role that does not exist.
        RecipeError: no parameter requires gradients.
    """
    roles, known = model.roles(), get_args(Role)
    for name, _ in model.named_parameters():
        if roles.get(name) not in known:
            given = f"the role {roles[name]!r}" if name in roles else "no role"
            raise PluginError(f"{type(model).__name__}.roles() gives {name!r} {given}: want one of {', '.join(known)}")
    found = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if not found:
        raise RecipeError("optimizer: nothing to train: no parameter of the model requires gradients")
    return found


def decay_groups(
    model: nn.Module, weight_decay: float, embedding_lr: float | None, leave_out: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the groups "decay", "embedding" and "no_decay", each in the model's order and left out when it is empty.

    Args:
        embedding_lr: peak learning rate of the embedding; None for that of the others.
        leave_out: names of parameters that are in none of them.
    """
    roles, parameters = model.roles(), trainable(model)
    groups: dict[str, dict[str, Any]] = {
        "decay": {"params": [], "weight_decay": weight_decay},
        "embedding": {"params": [], "weight_decay": 0.0} | ({} if embedding_lr is None else {"lr": embedding_lr}),
        "no_decay": {"params": [], "weight_decay": 0.0},
    }
    for name, parameter in parameters.items():
        if name in leave_out:
            continue
        group = "decay" if roles[name] in DECAYING else "embedding" if roles[name] == "embedding" else "no_decay"
        groups[group]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]


def one_kernel(groups: list[dict[str, Any]]) -> bool | None:
    """Return True where torch has Adam's one-kernel update for every parameter, None for torch to choose."""
    parameters = [each for group in groups for each in group["params"]]
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters) or None
