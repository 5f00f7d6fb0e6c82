"""Disk that a run takes, by part."""

from __future__ import annotations

import math

from attrs import frozen

from llmx.plan.memory import Memory, merged_bytes
from llmx.protocols import Adapter, Model
from llmx.recipe import Recipe
from llmx.train.adapt import merges
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
    own = math.floor(epochs) if recipe.checkpoint.every_epoch else 0
    saved = math.ceil(steps / (recipe.checkpoint.every or max(1, math.ceil(steps / 5)))) + own
    kept = recipe.checkpoint.keep_last + (recipe.data.held_out > 0) + 1 + own
    weights = trained if is_partial(recipe) else whole
    exported = whole
    if adapters:  # `adapter/` holds what is trained, besides, where that is not merged
        exported = trained + (merged_bytes(recipe, model, adapters)[0] if merges(recipe, adapters) else weights)
    return Disk(
        checkpoint=weights + memory.optimizer,
        checkpoints=min(kept, saved + 1),
        model=exported,
        tokens=tokens * (2 if model.vocab_size <= 2**16 else 4),
    )
