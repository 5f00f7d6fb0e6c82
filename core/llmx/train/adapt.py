"""Adapters on a model and off it again."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from llmx.protocols import Adapter, Model
from llmx.recipe import Part, Recipe


def adapt(recipe: Recipe, model: Model) -> tuple[Model, list[Adapter]]:
    """Apply the adapters of a recipe to a model, in order; return the model to train and the adapters."""
    adapters: list[Adapter] = []
    for part in recipe.adapters:
        adapter = part.build()
        model = part.blame(adapter.apply, model)
        adapters.append(adapter)
    return model, adapters


def merged(model: Model, adapters: Iterable[tuple[Part, Adapter]]) -> Model:
    """Return a model without its adapters; the one given stays as it is."""
    applied = list(adapters)
    if applied:
        model = copy.deepcopy(model)
    for part, adapter in reversed(applied):
        model = part.blame(adapter.merge, model)
    return model
