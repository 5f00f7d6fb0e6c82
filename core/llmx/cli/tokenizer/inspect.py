"""`llmx tokenizer inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmx.protocols import Document, Tokenizer
    from llmx.registry import Registry

COLOURS = ("cyan", "yellow", "green", "magenta")
"""Of pieces beside each other."""


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", metavar="NAME", help="Name of the dataset.")
@click.option("--text", help="Show how this text is split.")
@click.option("--characters", type=click.IntRange(1), default=5_000_000, show_default=True, help="Most to read of it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(
    path: Path, overrides: tuple[str, ...], data: str | None, text: str | None, characters: int, as_json: bool
) -> None:
    """Show the vocabulary of a tokenizer and what it does to texts.

    PATH is a tokenizer.json, or a folder that holds one: of a tokenizer, a run or a model.

    \b
    llmx tokenizer inspect my-tokenizer --text "How is this split?"
    llmx tokenizer inspect Qwen3-0.6B/tokenizer.json data.path=corpus.jsonl
    """
    import json

    from llmx.cli.tokenizer import figures
    from llmx.errors import RecipeError
    from llmx.layers import is_override
    from llmx.registry import Registry

    for each in overrides:
        if not is_override(each):
            raise RecipeError(f"{each!r}: is no KEY=VALUE, and the tokenizer is {path}")
    registry = Registry()
    tokenizer = load(path, registry)
    tokens = [tokenizer.decode([id_]) for id_ in range(tokenizer.vocab_size)]
    found: dict[str, Any] = {"path": str(path), **figures.vocabulary(tokenizer, tokens)}
    if data or overrides:
        found["texts"] = figures.on_texts(tokenizer, tokens, documents(overrides, data, registry), characters)
    if text is not None:
        found["pieces"] = figures.split(tokenizer, text)
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found)


def load(path: Path, registry: Registry) -> Tokenizer:
    """Read a tokenizer from a folder that llmx wrote, any other folder with a tokenizer.json, or such a file.

    Raises:
        RecipeError: there is none.
    """
    from llmx.pretrained import LLMX, load_tokenizer

    folder = next((each for each in (path, path / "tokenizer", path / "model") if (each / LLMX).exists()), None)
    if folder is not None:
        return load_tokenizer(folder, registry)
    component = registry.find("tokenizer", "hf", "llmx tokenizer inspect").component
    tokenizer: Tokenizer = component.load().build(component.options(path=str(path)), iter(()))
    return tokenizer


def documents(overrides: Sequence[str], data: str | None, registry: Registry) -> Iterator[Document]:
    """Yield the documents that overrides name, held out or not."""
    from llmx.api import layers_of
    from llmx.corpora import build_dataset
    from llmx.recipe import Recipe

    recipe = Recipe.resolve(layers_of(overrides=overrides, **({"data": data} if data else {})), registry)
    for source in recipe.sources:
        yield from build_dataset(recipe, source)


def show(found: dict[str, Any]) -> None:
    """Print figures as text."""
    bos, eos = ("none" if found[key] is None else found[key] for key in ("bos_id", "eos_id"))
    click.echo(f"{click.style(found['path'], bold=True)}: {found['vocab_size']:,} ids, begin {bos}, end {eos}")
    specials = [f"{name} {id_}" for name, id_ in found["special_tokens"].items()]
    click.echo(f"  special: {', '.join(specials) or 'none'}")
    parts = f"{found['parts_of_characters']:,} are parts of characters"
    click.echo(f"  {found['after_a_space']:,} begin with a space, {found['with_cjk']:,} hold CJK, {parts}")
    click.echo(f"  longest: {' '.join(map(repr, found['longest']))}")
    if "texts" in found:
        _show_texts(found["texts"])
    if "pieces" in found:
        _show_pieces(found["pieces"])


def _show_texts(texts: dict[str, Any]) -> None:
    head = ("", "texts", "characters", "tokens", "bytes/token", "characters/token", "in parts", "unknown")
    click.echo("\n" + "  ".join(name.rjust(max(len(name), 8)) for name in head))
    for name, row in {"all": texts, **{f"{k} lines": v for k, v in texts["scripts"].items()}}.items():
        cells = [name, *(f"{row[key]:,}" for key in ("documents", "characters", "tokens"))]
        cells += [f"{row[key]:.2f}" for key in ("bytes_per_token", "characters_per_token")]
        cells += [f"{row[key]:.2%}" for key in ("share_of_parts_of_characters", "share_of_unknown")]
        click.echo("  ".join(cell.rjust(max(len(title), 8)) for cell, title in zip(cells, head, strict=True)))
    trip = texts["round_trip"]
    click.echo(f"\n{trip['lost']:,} texts do not come back from their ids; {trip['normalised']:,} more are normalised")
    if trip["example"]:
        each = trip["example"]
        click.echo(f"  {each['origin']}: {each['text']!r} becomes {each['back']!r}")


def _show_pieces(pieces: list[tuple[str, list[int]]]) -> None:
    styled = [
        click.style(_visible(text), fg="black", bg=COLOURS[number % len(COLOURS)])
        for number, (text, _) in enumerate(pieces)
    ]
    count = sum(len(ids) for _, ids in pieces)
    click.echo(f"\n{'|'.join(styled)}\n{count} tokens: {' '.join('+'.join(map(str, ids)) for _, ids in pieces)}")


def _visible(text: str) -> str:
    """Return a text without what moves the cursor or colours a terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
