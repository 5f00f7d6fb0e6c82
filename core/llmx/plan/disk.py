"""Disk that a run takes, by part."""

from __future__ import annotations

import math
from typing import cast

from attrs import frozen
from torch import nn

from llmx.plan.memory import Memory, merges
from llmx.protocols import Adapter, Model
from llmx.recipe import Recipe
from llmx.train.model import is_partial


@frozen
class Disk:
    """Bytes on disk when a run has ended, and one checkpoint more while it is written.

    Attributes:
        checkpoint: of one checkpoint.
        checkpoints: how many are there at most.
        model: of `model/` and `adapter/`.
        tokens: of the token store, in the cache.
    """

    checkpoint: int
    checkpoints: int
    model: int
    tokens: int

    @property
    def peak(self) -> int:
        """Bytes when it is most."""
        return self.checkpoint * self.checkpoints + self.model + self.tokens


def plan_disk(
    recipe: Recipe, model: Model, adapters: list[Adapter], memory: Memory, *, steps: int, epochs: float, tokens: int
) -> Disk:
    """Return what a run writes.

    Args:
        model: as it is trained, on the meta device.
        tokens: of all sources, held-out ones too.
    """
    trained = sum(size for kind, size in memory.weights.items() if kind.startswith("trained"))
    whole = sum(memory.weights.values())
    saved = math.ceil(steps / (recipe.checkpoint.every or max(1, math.ceil(steps / 5))))
    kept = recipe.checkpoint.keep_last + (recipe.data.held_out > 0) + 1
    kept += math.floor(epochs) if recipe.checkpoint.every_epoch else 0
    exported = whole
    if adapters:
        dtype = next(each for each in cast(nn.Module, model).parameters() if not each.requires_grad).dtype
        dense = sum(p.numel() for p in cast(nn.Module, model).parameters() if not p.requires_grad) * dtype.itemsize
        exported = trained + (dense if merges(recipe, adapters) else 0)
    return Disk(
        checkpoint=(trained if is_partial(recipe) else whole) + memory.optimizer,
        checkpoints=min(kept, saved + 1),
        model=exported,
        tokens=tokens * (2 if model.vocab_size <= 2**16 else 4),
    )
