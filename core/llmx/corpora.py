"""The tokenizer, the template and the prepared sources of a run: made for a new one, found again for a resumed one."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx import pretrained
from llmx.base import read_tokenizer
from llmx.data.encode import Encoder, LossMask
from llmx.data.prepare import cached_tokens, prepare, training_texts
from llmx.data.split import Split, split_over
from llmx.data.store import read_manifest, verify
from llmx.errors import CheckpointError, DataError
from llmx.lock import read_lock
from llmx.options import unstructure
from llmx.progress import progress
from llmx.protocols import Dataset, Document, Template, Tokenizer
from llmx.recipe import Part, Recipe, Source
from llmx.registry import Registry

LOOKED_AT = 100
"""Documents of a source that are looked at for chats: one file may hold both, and begin with either."""


@frozen
class Corpora:
    """What a run reads.

    Attributes:
        template: how its chats are written; None where no source holds chats.
        folders: the token store of each source.
    """

    tokenizer: Tokenizer
    template: Template | None
    folders: list[Path]


@frozen
class Reading:
    """What turns the sources of a recipe into tokens.

    Attributes:
        datasets: by the label of their source.
        digest: SHA-256 over what the tokenizer saves.
    """

    datasets: dict[str, Dataset]
    split: Split
    tokenizer: Tokenizer
    template: Template | None
    encoder: Encoder
    digest: str


def make_reading(recipe: Recipe) -> Reading:
    """Make the recipe's tokenizer, from the training texts if it learns from texts, and what else encodes its sources.

    Raises:
        DataError: a source is missing or unreadable, or holds no text.
        RecipeError: the tokenizer lacks special tokens of the template.
    """
    datasets = {source.label: build_dataset(recipe, source) for source in recipe.sources}
    split = split_over(recipe.data.held_out, datasets.values())
    chats = any(map(holds_chats, datasets.values()))
    with progress("Reading the corpus for the tokenizer", "texts") as report:
        tokenizer = build_tokenizer(recipe, _told(_texts(datasets.values(), split), report), chats=chats)
    template = recipe.template.build(tokenizer) if chats else None
    with tempfile.TemporaryDirectory() as scratch:
        pretrained.save_tokenizer(Path(scratch), tokenizer, recipe.tokenizer.name)
        digest = pretrained.tokenizer_hash(pretrained.tokenizer_files(Path(scratch)))
    return Reading(datasets, split, tokenizer, template, encoder_of(recipe, tokenizer, template), digest)


def new_corpora(recipe: Recipe) -> Corpora:
    """Make what encodes the recipe's sources, and encode them.

    Raises:
        DataError, RecipeError: see `make_reading`.
    """
    made = make_reading(recipe)
    folders = [prepare(dataset, made.split, made.encoder, made.digest) for dataset in made.datasets.values()]
    return Corpora(made.tokenizer, made.template, folders)


def resumed_corpora(recipe: Recipe, registry: Registry, folder: Path) -> Corpora:
    """Load the run's tokenizer and find its tokens: in the cache, or prepared again from the same sources.

    Raises:
        CheckpointError: a source is not the one the run began with.
    """
    tokenizer = pretrained.load_tokenizer(folder / "tokenizer", registry)
    template = pretrained.load_template(folder / "tokenizer", registry, tokenizer)
    lock = read_lock(folder)
    keys = [lock["data"]] if isinstance(lock["data"], str) else lock["data"]  # one key was written as it is
    found = [cached_tokens(key) for key in keys]
    if all(each.exists() for each in found):
        for each in found:
            verify(each)
    else:
        datasets = [build_dataset(recipe, source) for source in recipe.sources]
        split, encoder = split_over(recipe.data.held_out, datasets), encoder_of(recipe, tokenizer, template)
        found = [prepare(each, split, encoder, lock["tokenizer_sha256"]) for each in datasets]
    if data_facts(found)["data_sha256"] != lock["data_sha256"]:
        raise CheckpointError(f"{folder}: the data changed since the run began, so it cannot go on; start a new run")
    return Corpora(tokenizer, template, found)


@frozen
class FirstDocuments:
    """The first documents of a dataset, so many at most."""

    dataset: Dataset
    count: int

    def __iter__(self) -> Iterator[Document]:
        return itertools.islice(iter(self.dataset), self.count)

    def fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()}, the first {self.count}"


def build_dataset(recipe: Recipe, source: Source) -> Dataset:
    """Return the documents of a source, as many as the recipe reads."""
    dataset: Dataset = source.part.build()
    most = recipe.data.max_samples
    return dataset if most is None else FirstDocuments(dataset, most)


def holds_chats(dataset: Dataset) -> bool:
    """Return whether one of the first documents of a dataset is a chat."""
    return any(document.messages for document in itertools.islice(dataset, LOOKED_AT))


def build_tokenizer(recipe: Recipe, texts: Iterable[str], *, chats: bool) -> Tokenizer:
    """Build a recipe's tokenizer; `texts` is read by one that learns from them."""
    if recipe.tokenizer.folder is not None:
        return read_tokenizer(recipe.tokenizer)
    part = tokenizer_part(recipe, chats=chats)
    tokenizer: Tokenizer = part.call(part.load().build, texts)
    return tokenizer


def tokenizer_part(recipe: Recipe, *, chats: bool) -> Part:
    """Return the recipe's tokenizer; one learned for chats, or beside a named template, has its special tokens."""
    part = recipe.tokenizer
    named = "template.name" in recipe.origins  # for chats that a later run will train on
    if not ((chats or named) and hasattr(part.options, "special_tokens")):
        return part
    specials = dict.fromkeys((*part.options.special_tokens, *recipe.template.build(None).specials))
    return attrs.evolve(part, options=attrs.evolve(part.options, special_tokens=tuple(specials)))


def encoder_of(recipe: Recipe, tokenizer: Tokenizer, template: Template | None) -> Encoder:
    """Return what makes tokens of a recipe's documents, as its objective reads them.

    Raises:
        DataError: the objective is one for chats, and there are none.
    """
    objective = recipe.objective.build()
    if getattr(objective, "chats", False) and template is None:
        name = recipe.objective.name
        raise DataError(f'objective "{name}": the data holds no chats; give some, or name the objective causal-lm')
    mask = LossMask(recipe.data.loss_on, recipe.data.loss_turns)
    options = unstructure(recipe.template.options)
    options.pop("path", None)  # what was read from there is saved
    return Encoder(tokenizer, template, mask, options, pairs=getattr(objective, "pairs", False))


def _texts(datasets: Iterable[Dataset], split: Split) -> Iterator[str]:
    return itertools.chain.from_iterable(training_texts(dataset, split) for dataset in datasets)


def _told(texts: Iterator[str], report: Callable[[int], None]) -> Iterator[str]:
    for number, text in enumerate(texts):
        report(number)
        yield text


def data_facts(folders: Iterable[Path]) -> dict[str, Any]:
    """Return what `lock.json` says of the data: the keys in the cache, and one hash over the tokens themselves."""
    manifests = [(folder.name, read_manifest(folder)) for folder in folders]
    tokens = json.dumps([manifest["splits"] for _, manifest in manifests], sort_keys=True).encode()
    return {
        "data": [name for name, _ in manifests],
        "data_sha256": hashlib.sha256(tokens).hexdigest(),
        "tokenizer_sha256": manifests[0][1]["tokenizer"],
    }
