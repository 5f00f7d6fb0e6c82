"""AdamW and Adam of torch over a model's parameter groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import Adam, AdamW

from llmx_optimizers.groups import decay_groups, one_kernel
from llmx_optimizers.rates import with_rate

if TYPE_CHECKING:
    from torch import nn

    from llmx_optimizers import AdamOptions, AdamWOptions


def adamw(options: AdamWOptions, model: nn.Module) -> AdamW:
    """Build AdamW: the decay is apart from the gradient (Loshchilov & Hutter 2019)."""
    groups = with_rate(decay_groups(model, options.weight_decay, options.embedding_lr), options.lr, model)
    return AdamW(groups, betas=options.betas, eps=options.eps, fused=one_kernel(groups))


def adam(options: AdamOptions, model: nn.Module) -> Adam:
    """Build Adam: the decay is an L2 penalty, part of the gradient (Kingma & Ba 2015)."""
    groups = with_rate(decay_groups(model, options.weight_decay, options.embedding_lr), options.lr, model)
    return Adam(groups, betas=options.betas, eps=options.eps, fused=one_kernel(groups))
