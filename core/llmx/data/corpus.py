"""The corpora of a recipe: its tokenizer, its encoder, and a token store for each source."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from llmx import pretrained
from llmx.data.encode import Encoder, LossMask
from llmx.data.engine import EngineName
from llmx.data.prepare import Prepared, prepared, training_texts
from llmx.data.split import Split
from llmx.progress import progress
from llmx.protocols import Tokenizer

if TYPE_CHECKING:
    from llmx.recipe import Part, Recipe


def datasets_of(recipe: Recipe) -> dict[str, Part]:
    """Return the datasets of a recipe by their labels."""
    return {source.label: source.part for source in recipe.sources}


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """Build the recipe's tokenizer, from the training texts of all sources if it learns from texts."""
    split, options = Split(recipe.data.held_out), recipe.tokenizer.options
    if attrs.has(type(options)) and "special_tokens" in attrs.fields_dict(type(options)):
        specials = dict.fromkeys([*options.special_tokens, *recipe.template.build(None).specials])
        options = attrs.evolve(options, special_tokens=tuple(specials))
    datasets = [part.build() for part in datasets_of(recipe).values()]
    texts = itertools.chain.from_iterable(training_texts(dataset, split) for dataset in datasets)
    with progress("Reading the corpus for the tokenizer", "texts") as report:

        def counted() -> Iterator[str]:
            for number, text in enumerate(texts):
                report(number)
                yield text

        part = attrs.evolve(recipe.tokenizer, options=options)
        tokenizer: Tokenizer = part.call(part.load().build, counted())
    return tokenizer


def make_encoder(recipe: Recipe, tokenizer: Tokenizer) -> Encoder:
    """Return what encodes the documents of a recipe."""
    mask = LossMask(tuple(recipe.data.loss_on), recipe.data.loss_turns)
    return Encoder(tokenizer, recipe.template.build(tokenizer), mask)


def tokenizer_digest(recipe: Recipe, tokenizer: Tokenizer) -> str:
    """Return the hash of what the tokenizer saves."""
    with tempfile.TemporaryDirectory() as scratch:
        pretrained.save_tokenizer(Path(scratch), tokenizer, recipe.tokenizer.name)
        return pretrained.tokenizer_hash(pretrained.tokenizer_files(Path(scratch)))


def prepare_sources(
    recipe: Recipe,
    encoder: Encoder,
    tokenizer_hash: str,
    *,
    engine: EngineName = "local",
    workers: int | None = None,
    every_byte: bool = False,
) -> Iterator[tuple[str, Prepared]]:
    """Yield the label and the token store of each source of a recipe, made now unless the cache holds it."""
    for label, part in datasets_of(recipe).items():
        yield (
            label,
            prepared(
                part.build(),
                Split(recipe.data.held_out),
                encoder,
                tokenizer_hash,
                engine=engine,
                workers=workers,
                every_byte=every_byte,
            ),
        )
