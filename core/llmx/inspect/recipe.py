"""From a recipe to the figures of its corpus: prepared as a run would, so that the run finds it done."""

from __future__ import annotations

from collections.abc import Sequence

from llmx.assembly import sequence_length
from llmx.corpora import Corpora, build_dataset, encoder_of, new_corpora
from llmx.data.rows import HeldOut, rows_of
from llmx.data.split import split_over
from llmx.data.store import TokenStore
from llmx.inspect.figures import Corpus
from llmx.inspect.gather import SourceParts, gather
from llmx.progress import progress
from llmx.recipe import Recipe
from llmx.train.model import bare_model


def inspect_recipe(recipe: Recipe, samples: int) -> Corpus:
    """Return what a run of the recipe would read; what is encoded for that stays in the cache.

    Args:
        samples: documents to show.

    Raises:
        RecipeError, PluginError: whatever a run would raise before its first step for its data.
    """
    corpora = new_corpora(recipe)
    model = bare_model(recipe, corpora.tokenizer.vocab_size)
    length = sequence_length(recipe, model)
    stores = [TokenStore(folder, "val") for folder in corpora.folders] if recipe.data.held_out else []
    held_out = HeldOut(stores, recipe.data.packing, length).facts() if stores else None
    parts = _parts(recipe, corpora, stores, length)
    with progress("Looking at the corpus", "documents") as report:
        return gather(
            recipe.corpus,
            _names(recipe, corpora),
            parts,
            split_over(recipe.data.held_out, [part.dataset for part in parts]),
            encoder_of(recipe, corpora.tokenizer, corpora.template),
            recipe.data.packing,
            held_out,
            samples,
            report,
        )


def _parts(recipe: Recipe, corpora: Corpora, stores: Sequence[TokenStore], length: int) -> list[SourceParts]:
    parts = []
    for number, (source, folder) in enumerate(zip(recipe.sources, corpora.folders, strict=True)):
        train = TokenStore(folder, "train")
        rows = rows_of(train, recipe.data.packing, length, recipe.train.seed)
        held_out = stores[number] if stores else None
        parts.append(SourceParts(source.label, source.weight, build_dataset(recipe, source), train, held_out, rows))
    return parts


def _names(recipe: Recipe, corpora: Corpora) -> list[str]:
    """Return what decided the figures, in words."""
    names = [f"tokenizer {recipe.tokenizer.name}, {corpora.tokenizer.vocab_size:,} ids"]
    if corpora.template is not None:
        turns = " (last turn)" if recipe.data.loss_turns == "last" else ""
        names += [f"template {recipe.template.name}", f"trained on: {', '.join(recipe.data.loss_on)}{turns}"]
    return names
