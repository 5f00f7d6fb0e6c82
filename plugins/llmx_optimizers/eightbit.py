"""AdamW with averages of 8 bits, by bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes
import torch

from llmx.errors import RecipeError
from llmx_optimizers.groups import decay_groups, trainable
from llmx_optimizers.rates import with_rate

if TYPE_CHECKING:
    from torch import nn

    from llmx_optimizers import AdamW8bitOptions


def adamw8bit(options: AdamW8bitOptions, model: nn.Module) -> EightBit:
    """Build AdamW with averages in blocks of 8-bit numbers (Dettmers et al. 2022).

    Raises:
        RecipeError: bitsandbytes cannot take a step on the device that the model is on.
    """
    _try_step({each.device.type for each in trainable(model).values()})
    groups = with_rate(decay_groups(model, options.weight_decay, options.embedding_lr), options.lr, model)
    return EightBit(groups, betas=options.betas, eps=options.eps, min_8bit_size=options.min_8bit_size)


class EightBit(bitsandbytes.optim.AdamW8bit):
    """bitsandbytes' AdamW, whose state can be written with safetensors: its tables are not shared in a state dict."""

    def fill_qmap(self) -> None:
        """Make the tables of 8-bit numbers, on the host: a dry run makes everything else on the meta device."""
        with torch.device("cpu"):
            super().fill_qmap()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, each tensor with memory of its own."""
        state = super().state_dict()
        for each in state["state"].values():
            for values in (inner for inner in each.values() if isinstance(inner, dict)):
                values.update({name: values[name].clone() for name in ("qmap1", "qmap2") if name in values})
        return state


def _try_step(devices: set[str]) -> None:
    """Take a step with a parameter of its own on each device.

    Raises:
        RecipeError: there is no kernel for it.
    """
    for device in sorted(devices):
        trial = torch.nn.Parameter(torch.zeros(256, device=device))
        trial.grad = torch.zeros_like(trial)
        try:
            EightBit([trial], min_8bit_size=1).step()
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RecipeError(
                f"optimizer.name: adamw8bit has no kernel of bitsandbytes on {device} ({reason}): take adamw"
            ) from error
