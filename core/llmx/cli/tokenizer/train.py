"""`llmx tokenizer train`."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.cli.common import given_names, name_options, split_arguments

if TYPE_CHECKING:
    from llmx.protocols import Dataset, Document, Tokenizer
    from llmx.recipe import Recipe


@click.command("train")
@click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write, which must be new.")
@click.option("--json", "as_json", is_flag=True, help="Print what it was learned from as JSON.")
@name_options
def command(arguments: tuple[str, ...], out: Path, as_json: bool, **names: Any) -> None:
    """Learn a tokenizer from the training documents of a recipe, as `llmx run` with the same arguments would.

    A run reads what it wrote as `hf`, and so do other tools.

    \b
    llmx tokenizer train data.path=corpus.jsonl --tokenizer bpe tokenizer.vocab_size=8000 --out my-tokenizer
    llmx run data.path=corpus.jsonl --tokenizer hf tokenizer.path=my-tokenizer
    """
    import json
    import time

    from llmx.api import layers_of
    from llmx.errors import RecipeError
    from llmx.recipe import Recipe

    if out.exists():
        raise RecipeError(f"--out {out}: exists already; give a new folder")
    source, overrides = split_arguments(arguments)
    recipe = Recipe.resolve(layers_of(source, overrides=overrides, **given_names(names)))
    begin = time.monotonic()
    tokenizer, facts = learn(recipe)
    write(out, tokenizer, facts)
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    read = f"{facts['documents']:,} documents, {facts['characters']:,} characters"
    click.echo(f"{facts['tokenizer']}: {facts['vocab_size']:,} ids from {read} in {time.monotonic() - begin:.1f} s")
    click.echo(f"{out}: {run_with(out, source, overrides, names)}; llmx tokenizer inspect {shlex.quote(str(out))}")


def run_with(out: Path, source: Path | None, overrides: Sequence[str], names: dict[str, Any]) -> str:
    """Return the command of a run with the tokenizer in `out` and what else was given."""
    given = {section: value for section, value in given_names(names).items() if section != "tokenizer"}
    flags = [[f"--{section}", one] for section, v in given.items() for one in (v if isinstance(v, list) else [v])]
    others = [each for each in overrides if not each.startswith(("tokenizer=", "tokenizer."))]
    words = ["llmx", "run", *([str(source)] if source else []), *others, *itertools.chain(*flags)]
    return shlex.join([*words, "--tokenizer", "hf", f"tokenizer.path={out}"])


def learn(recipe: Recipe) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer of a recipe, made from its training documents, and what it was learned from.

    Raises:
        RecipeError: the tokenizer learns nothing.
        DataError: there is too little text.
    """
    from attrs import asdict

    from llmx.corpora import build_dataset, holds_chats, tokenizer_part
    from llmx.errors import DataError, RecipeError
    from llmx.progress import progress

    datasets = [build_dataset(recipe, source) for source in recipe.sources]
    documents = _training_documents(recipe, datasets)
    first = next(documents, None)
    if first is None:
        raise DataError("tokenizer: there is no text to learn from; give more in data.path")
    part = tokenizer_part(recipe, chats=any(map(holds_chats, datasets)))
    read = {"documents": 0, "characters": 0}
    with progress("Reading the corpus for the tokenizer", "characters") as report:
        texts = _texts(itertools.chain([first], documents), read, report)
        tokenizer: Tokenizer = part.call(part.load().build, texts)
    if not read["documents"]:
        raise RecipeError(f"tokenizer.name = {part.name!r}: learns nothing from text; give --tokenizer bpe or another")
    prints = [dataset.fingerprint() for dataset in datasets]
    data = [{"label": s.label, "fingerprint": each} for s, each in zip(recipe.sources, prints, strict=True)]
    named = {"tokenizer": part.name, "vocab_size": tokenizer.vocab_size, "options": asdict(part.options)}
    return tokenizer, {**named, **read, "held_out": recipe.data.held_out, "data": data}


def write(folder: Path, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Write a tokenizer's folder in one step, what it was learned from beside the names in `llmx.json`."""
    import json
    import shutil

    from llmx.files import fsync_folder, temporary_beside
    from llmx.pretrained import LLMX, read_json, save_tokenizer

    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        save_tokenizer(temporary, tokenizer, facts["tokenizer"])
        kept = {**read_json(temporary / LLMX), "learned_from": facts}
        (temporary / LLMX).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        fsync_folder(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _training_documents(recipe: Recipe, datasets: Sequence[Dataset]) -> Iterator[Document]:
    """Yield the documents of every source that are not held out, one source after the other."""
    from llmx.data.split import split_over

    split = split_over(recipe.data.held_out, datasets)
    for dataset in datasets:
        yield from (document for name, document in split(dataset) if name == "train")


def _texts(documents: Iterator[Document], read: dict[str, int], report: Callable[[int], None]) -> Iterator[str]:
    from llmx.data.documents import texts_of

    for document in documents:
        read["documents"] += 1
        for text in texts_of(document):
            read["characters"] += len(text)
            report(read["characters"])
            yield text
