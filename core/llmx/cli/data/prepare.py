"""`llmx data prepare`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from llmx.cli.common import given_names, name_options, split_arguments, warn_of_broken

if TYPE_CHECKING:
    from llmx.data.prepare import Prepared


@click.command("prepare")
@click.argument("arguments", nargs=-1, metavar="[RECIPE|RUN_DIR] [KEY=VALUE]...")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Where to encode: on this machine, or on a Ray cluster (RAY_ADDRESS). The bytes are the same.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that encode; by default as many as help.")
@click.option("--verify", is_flag=True, help="Compare every byte of what the cache holds with its checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@name_options
def command(
    arguments: tuple[str, ...], engine: Any, workers: int | None, verify: bool, as_json: bool, **names: Any
) -> None:
    """Encode the corpus of a recipe into the cache, as `llmx run` with the same arguments does by itself.

    \b
    llmx data prepare recipe.toml
    llmx data prepare data.path=corpus/*.jsonl tokenizer.path=Qwen3-0.6B --tokenizer hf --workers 8
    llmx data prepare recipe.toml --engine ray
    llmx data prepare recipe.toml --verify

    Stopped at any moment it goes on from the last whole shard. The cache is in LLMX_CACHE, or in ~/.cache/llmx.
    """
    from llmx.api import layers_of
    from llmx.corpora import make_reading
    from llmx.data.prepare import prepared
    from llmx.recipe import Recipe
    from llmx.registry import Registry

    source, overrides = split_arguments(arguments)
    registry = Registry()
    warn_of_broken(registry)
    recipe = Recipe.resolve(layers_of(source, overrides=overrides, **given_names(names)), registry)
    made = make_reading(recipe)
    rows, began = [], time.monotonic()
    for label, dataset in made.datasets.items():
        given = (dataset, made.split, made.encoder, made.digest)
        done = prepared(*given, engine=engine, workers=workers, every_byte=verify)
        rows.append({**_facts(label, done, time.monotonic() - began), "verified": verify})
        began = time.monotonic()
        if not as_json:
            click.echo(_text(rows[-1]))
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))


def _facts(label: str, done: Prepared, seconds: float) -> dict[str, Any]:
    """Return what there is to say of a store."""
    from llmx.data.store import read_manifest

    splits = read_manifest(done.folder)["splits"]
    counts = ("documents", "tokens", "predicted", "text_bytes", "lost_turns")
    return {
        "source": label,
        "folder": str(done.folder),
        "made": done.made,
        "resumed_documents": done.resumed_documents,
        "seconds": round(seconds, 3),
        "bytes": sum(path.stat().st_size for path in done.folder.glob("*.arrow")),
        "shards": sum(len(split["shards"]) for split in splits.values()),
        "splits": {name: {key: split[key] for key in counts} for name, split in splits.items()},
    }


def _text(facts: dict[str, Any]) -> str:
    splits = facts["splits"]
    tokens = sum(split["tokens"] for split in splits.values())
    how = "was in the cache"
    if facts["made"]:
        how = f"made in {facts['seconds']:.1f} s, {tokens / max(facts['seconds'], 1e-9):,.0f} tokens/s"
    if facts["resumed_documents"]:
        how += f"; {facts['resumed_documents']:,} documents were done before"
    if facts["verified"]:
        how += "; checksums agree"
    lines = [f"{facts['source']}: {facts['folder']}", f"  {how}; {facts['shards']} shards, {facts['bytes']:,} bytes"]
    for name, split in splits.items():
        text = f"  {name:5} {split['documents']:,} documents, {split['tokens']:,} tokens"
        lost = f"; {split['lost_turns']:,} turns the template does not let be trained on" if split["lost_turns"] else ""
        lines.append(f"{text}, {split['predicted']:,} trained on, {split['text_bytes']:,} bytes of text{lost}")
    return "\n".join(lines)
