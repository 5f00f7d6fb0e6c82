"""AdamW and Adam of torch over a model's parameter groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Adam, AdamW

from llmx_optimizers.groups import decay_groups

if TYPE_CHECKING:
    from torch import nn

    from llmx_optimizers import AdamOptions, AdamWOptions


def adamw(options: AdamWOptions, model: nn.Module) -> AdamW:
    """Build AdamW: the decay is apart from the gradient (Loshchilov & Hutter 2019)."""
    groups = decay_groups(model, options.weight_decay, options.embedding_lr)
    return AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=_fused(groups))


def adam(options: AdamOptions, model: nn.Module) -> Adam:
    """Build Adam: the decay is an L2 penalty, part of the gradient (Kingma & Ba 2015)."""
    groups = decay_groups(model, options.weight_decay, options.embedding_lr)
    return Adam(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=_fused(groups))


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Return True where torch has the one-kernel update for every parameter, None for torch to choose."""
    parameters = [each for group in groups for each in group["params"]]
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters) or None
