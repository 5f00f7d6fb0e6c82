"""Learning rates by a law of the model's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llmx.nn import count_weights

if TYPE_CHECKING:
    from torch import nn

RATE, SIZE, POWER = 5e-5, 7e9, -0.25
"""What continued pre-training of 7 billion parameters is given with Adam's kind of update, and how the rate falls as a
model grows."""


def rate(lr: float | Literal["auto"], model: nn.Module) -> dict[str, Any]:
    """Return what a group is given as its rate: `lr`, and where the law set it the law in words, `lr_working`.

    The size is that of the whole model, frozen and packed weights too.
    """
    if lr != "auto":
        return {"lr": lr}
    size = count_weights(model)
    return {"lr": RATE * (size / SIZE) ** POWER, "lr_working": f"5e-5 x ({size:,} / 7e9)^-0.25"}


def with_rate(groups: list[dict[str, Any]], lr: float | Literal["auto"], model: nn.Module) -> list[dict[str, Any]]:
    """Return the groups, those without a rate of their own with this one."""
    given = rate(lr, model)
    return [group if "lr" in group else group | given for group in groups]
