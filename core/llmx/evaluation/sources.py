"""What a model is measured on: its run's held-out documents, or given files, encoded as training would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from llmx import pretrained
from llmx.api import layers_of, saved_layers
from llmx.corpora import build_dataset, encoder_of, holds_chats
from llmx.data.prepare import prepare
from llmx.data.rows import HeldOut
from llmx.data.split import Split, split_over
from llmx.data.store import TokenStore
from llmx.errors import DataError, RecipeError
from llmx.folder import is_run
from llmx.generate.language_model import LanguageModel
from llmx.layers import Layer
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.sections import DataOptions

SECTIONS = ("data", "template", "objective", "train", "eval")
"""What of a run's recipe says how its model is measured: the other parts' plugins may be gone."""

CHANGED = ("data", "objective")
"""What of these a command may say otherwise: the template is the one that trained the model."""


@frozen
class Measurable:
    """Rows of one source.

    Attributes:
        lost_turns: turns that were to count and do not, since the template spells them otherwise once others follow.
    """

    label: str
    rows: HeldOut
    documents: int
    lost_turns: int


def recipe_of(folder: Path, data: Sequence[Path], overrides: Sequence[str], registry: Registry) -> Recipe:
    """Return the recipe that a model of a folder is measured by.

    Args:
        data: files in the place of the run's own sources.

    Raises:
        RecipeError: the folder is no run, and no data is given, or an override is of something else.
    """
    for each in overrides:
        if each.partition(".")[0] not in CHANGED:
            raise RecipeError(f"{each}: would change nothing: only data.* and objective.* say how a model is measured")
    if not data and not is_run(folder) and not names_documents(overrides):
        raise RecipeError(f"{folder}: is no run, which would have held-out documents: give --data PATH")
    layers = saved_layers(folder, SECTIONS)
    if data:  # the dataset was one for other files; how documents are read as rows stays
        layers = [Layer(each.origin, {**each.values, "data": _kept(each.values.get("data"))}) for each in layers]
        paths = [{"path": str(each)} for each in data]
        layers.append(Layer("--data", {"data": paths[0] if len(paths) == 1 else {"sources": paths}}))
    return Recipe.resolve([*layers, *layers_of(overrides=overrides)], registry)


def names_documents(overrides: Sequence[str]) -> bool:
    """Return whether overrides name other documents than the run's own."""
    return any(each.partition("=")[0] in ("data.path", "data.name", "data.sources") for each in overrides)


def _kept(data: Any) -> dict[str, Any]:
    """Return what of a recipe's data holds for other documents too."""
    kept = {each.name for each in fields(DataOptions)} - {"max_samples"}
    return {key: value for key, value in data.items() if key in kept} if isinstance(data, Mapping) else {}


def measurable(recipe: Recipe, loaded: LanguageModel, *, held_out: bool) -> list[Measurable]:
    """Return the rows of every source, encoded with the tokenizer and the template that trained the model.

    Args:
        held_out: only what the run kept from training; otherwise all.

    Raises:
        DataError: a source holds nothing to measure, or chats where the model was trained on plain text.
        RecipeError: the objective compares pairs.
    """
    if getattr(recipe.objective.build(), "pairs", False):
        raise RecipeError(
            f"objective.name = {recipe.objective.name!r}: compares pairs of answers, and a loss is nats of tokens: add "
            "objective.name=causal-lm"
        )
    datasets = {source.label: build_dataset(recipe, source) for source in recipe.sources}
    chats = [label for label, dataset in datasets.items() if holds_chats(dataset)]
    if chats and loaded.template is None:
        raise DataError(f"{chats[0]}: holds chats, and the model was trained on plain text and has no template")
    split = split_over(recipe.data.held_out, datasets.values()) if held_out else Split(0.0)
    encoder = encoder_of(recipe, loaded.tokenizer, loaded.template)
    length = recipe.data.sequence_length or loaded.model.context_length
    found = []
    for label, dataset in datasets.items():
        folder = prepare(dataset, split, encoder, pretrained.tokenizer_digest(loaded.tokenizer))
        store = TokenStore(folder, "val" if held_out else "train")
        if not store.predicted:
            kept = " among what was held out: give --data PATH" if held_out else ""
            raise DataError(f"{label}: has no token to predict{kept}")
        rows = HeldOut([store], recipe.data.packing, min(length, loaded.model.context_length))
        found.append(Measurable(label, rows, store.documents, store.lost_turns))
    return found
