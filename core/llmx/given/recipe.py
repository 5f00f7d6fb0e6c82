"""From names and objects to the recipe of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.api import Source, layers_of
from llmx.given.component import GivenParts
from llmx.given.documents import Documents, dataset_of
from llmx.given.parts import given_table
from llmx.layers import LISTS, Layer, merge
from llmx.protocols import Dataset, Document
from llmx.recipe import Recipe
from llmx.registry import Registry

SMALL_CHARACTERS = 20_000
"""Texts below this length are learned whole, none held out, and character by character: pieces of words seen once or
twice teach a model nothing."""


def resolve(
    sections: Mapping[str, Any],
    *,
    source: Source,
    overrides: Sequence[str] | Mapping[str, Any],
    hooks: Sequence[str],
) -> tuple[Recipe, Registry]:
    """Return the recipe of a run and the registry that knows its objects.

    Args:
        sections: for each section of a recipe a name or an object, in a list where it holds several; None leaves it.
        source: the recipe that they are laid over; None takes defaults for small data, see `_defaults`.

    Raises:
        RecipeError: an object lacks something of its contract, or as `Recipe.resolve`.
    """
    registry, parts = Registry(), GivenParts()
    data = _data(sections.get("data"), registry)
    tables = {
        name: _table(parts, name, data if name == "data" else value)
        for name, value in sections.items()
        if value is not None and value != ()
    }
    registry = Registry([*registry.plugins, parts.plugin()])
    layers = layers_of(source, overrides=overrides, hooks=hooks, **tables)
    if source is None:
        pretrained = "pretrained" in merge(layers).get("model", {})
        layers = [Layer("llmx.Trainer", _defaults(data, pretrained=pretrained)), *layers]
    return Recipe.resolve(layers, registry), registry


def _defaults(data: Any, *, pretrained: bool) -> dict[str, Any]:
    """Return what is meant where nothing is said: an even rate, since nobody knows how long it will be trained;
    updates that suit the size of the data; texts at hand each whole in a row."""
    found: dict[str, Any] = {
        "scheduler": "constant",
        "train": {"tokens_per_update": "auto"},
        "generate": {"samples": 0},
    }
    if isinstance(data, Documents):
        small = data.characters < SMALL_CHARACTERS
        found["data"] = {"packing": "best-fit", **({"held_out": 0.0} if small else {})}
        found |= {"tokenizer": "char"} if small and not pretrained else {}
    return found


def _table(parts: GivenParts, section: str, value: Any) -> Any:
    """Return what a recipe says of a section: a name, a table, or a list of these."""
    if section in LISTS:
        several = value if isinstance(value, list | tuple) else [value]
        return [each if isinstance(each, str | Mapping) else given_table(parts, section, each) for each in several]
    if isinstance(value, Mapping):
        return value
    if section == "model" and (isinstance(value, Path) or (isinstance(value, str) and _is_folder(value))):
        return {"pretrained": str(value)}
    if isinstance(value, str):
        return value
    return given_table(parts, "dataset" if section == "data" else section, value)


def _is_folder(model: str) -> bool:
    """Return whether a model is said by its folder or its id on a hub, and not by a component's name."""
    return "/" in model or Path(model).is_dir()


def _data(data: Any, registry: Registry) -> Any:
    """Return a dataset, or the table or name that a recipe has for it."""
    if isinstance(data, str | Path):
        names = {name for offer in registry.offers("dataset") for name in (offer.component.name, offer.qualified)}
        return data if str(data) in names and not Path(data).exists() else {"path": str(data)}
    if data is None or isinstance(data, Mapping):
        return data
    if isinstance(data, list | tuple) and data and all(isinstance(each, Path) for each in data):
        return {"path": list(map(str, data))}
    return dataset_of(data, registry)


def dataset_from(data: Any, registry: Registry) -> Dataset:
    """Return the dataset that is meant by texts, chats, a path, a table of the recipe's section or a `Dataset`.

    Raises:
        DataError, RecipeError: there is none.
    """
    found = _data(data, registry)
    if isinstance(found, str | Mapping):
        recipe = Recipe.resolve([Layer("dataset", {"data": found})], registry)
        found = recipe.sources[0].part.build()
    assert not isinstance(found, Document)
    dataset: Dataset = found
    return dataset
