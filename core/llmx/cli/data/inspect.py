"""`llmx data inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmx.cli.common import given_names, name_options, split_arguments, warn_of_broken


@click.command("inspect")
@click.argument("arguments", nargs=-1, metavar="[RECIPE|RUN_DIR] [KEY=VALUE]...")
@click.option("--html", type=click.Path(path_type=Path), metavar="PAGE", help="Write a page with plots too.")
@click.option("--samples", type=click.IntRange(min=0), default=3, show_default=True, help="Documents to show.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@name_options
def command(arguments: tuple[str, ...], html: Path | None, samples: int, as_json: bool, **names: Any) -> None:
    """Look at a corpus as `llmx run` with the same arguments would read it; train nothing.

    Counts, lengths, what is trained on, what a row cuts off, what is left out for it has nothing to train on,
    duplicates, padding, scripts, and documents with the trained part in colour. What is encoded for that stays in the
    cache, where the run finds it.

    \b
    llmx data inspect recipe.toml --html corpus.html
    llmx data inspect data.path=chats.jsonl --tokenizer hf tokenizer.path=Qwen3-0.6B --template qwen3
    """
    from llmx.api import layers_of
    from llmx.inspect import to_text, write_page
    from llmx.inspect.recipe import inspect_recipe
    from llmx.page import encodable
    from llmx.recipe import Recipe
    from llmx.registry import Registry

    source, overrides = split_arguments(arguments)
    registry = Registry()
    warn_of_broken(registry)
    recipe = Recipe.resolve(layers_of(source, overrides=overrides, **given_names(names)), registry)
    corpus = inspect_recipe(recipe, samples)
    if html is not None:
        write_page(corpus, html)
    if as_json:
        import json

        click.echo(encodable(json.dumps(corpus.to_json(), indent=1, ensure_ascii=False)))
        return
    click.echo(encodable(to_text(corpus)))
    if html is not None:
        click.echo(f"\nThe page: {html}")
