"""Adapters on a model and off it again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterable
from typing import cast

import torch
from torch import nn

from llmx.protocols import Adapter, Model
from llmx.recipe import Part, Recipe


def adapt(recipe: Recipe, model: Model, device: torch.device) -> tuple[Model, list[Adapter]]:
    """Apply the adapters of a recipe, in order, to a model on the CPU or on the meta device.

    Returns:
        The model to train, which may lie partly on `device`: what is left is moved by who called. And the adapters.
    """
    adapters: list[Adapter] = []
    for part in recipe.adapters:
        adapter = part.build()
        model = part.blame(adapter.apply, model, device)
        adapters.append(adapter)
    return model, adapters


def quantises(adapters: Iterable[Adapter]) -> bool:
    """Return whether one of the adapters packs the base, so that merged it is larger, and not the one it was."""
    return any(getattr(adapter, "quantises", False) for adapter in adapters)


def merges(recipe: Recipe, adapters: Collection[Adapter]) -> bool:
    """Return whether a run ends with `model/`: with adapters merged, unless the base is packed or the recipe says."""
    wanted = recipe.checkpoint.merge
    return not quantises(adapters) if wanted is None else wanted or not adapters


def merged(model: Model, adapters: Iterable[tuple[Part, Adapter]]) -> Model:
    """Return a model without its adapters, on the CPU; the one given stays as it is. With none, return that one."""
    applied = list(adapters)
    if applied:
        model = cast(Model, _copied_to_cpu(cast(nn.Module, model)))
    for part, adapter in reversed(applied):
        model = part.blame(adapter.merge, model)
    return model


def _copied_to_cpu(model: nn.Module) -> nn.Module:
    """Return a deep copy on the CPU: a base that fills a card as 4 bits a weight does not fit there unpacked."""
    memo: dict[int, torch.Tensor] = {}
    for value in itertools.chain(model.parameters(), model.buffers()):
        if value.device.type != "cpu":
            moved = value.detach().cpu()
            memo[id(value)] = nn.Parameter(moved, value.requires_grad) if isinstance(value, nn.Parameter) else moved
    return copy.deepcopy(model, memo)
