"""`llmx config`."""

from __future__ import annotations

from typing import Any

import click

from llmx.cli.common import given_names, name_options, split_arguments


@click.group("config")
def command() -> None:
    """Show a recipe as it resolves, and where each value is from."""


@command.command("show")
@click.argument("arguments", nargs=-1, metavar="[RECIPE|RUN_DIR] [KEY=VALUE]...")
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--hooks", multiple=True, metavar="FILE", help="Python file with hooks.")
@name_options
def show(arguments: tuple[str, ...], origin: bool, as_json: bool, hooks: tuple[str, ...], **names: Any) -> None:
    """Print the whole recipe that `llmx run` with the same arguments would run."""
    from llmx.api import layers_of
    from llmx.recipe import Recipe
    from llmx.toml import dumps

    source, overrides = split_arguments(arguments)
    recipe = Recipe.resolve(layers_of(source, overrides=overrides, hooks=hooks, **given_names(names)))
    values = recipe.to_plain()
    if as_json:
        import json

        origins = {"origins": dict(recipe.origins)} if origin else {}
        click.echo(json.dumps({**values, **origins}, indent=1, ensure_ascii=False))
        return
    text = dumps(values)
    click.echo((_with_origins(text, recipe.origins) if origin else text).rstrip())


def _with_origins(text: str, origins: Any) -> str:
    """Put `# where from` behind every value of a TOML text."""
    lines, section, listed = text.splitlines(), "", False
    width = min(60, max((len(line) for line in lines), default=0))
    shown = []
    for index, line in enumerate(lines):
        if line.startswith("["):
            listed = line.startswith("[[")
            section = line.strip("[]")
            if listed:
                name = lines[index + 1].partition(" = ")[2].strip('"')
                section = f"{section}.{name}"
        key = line.partition(" = ")[0] if " = " in line else ""
        if key:
            origin = origins.get(f"{section}.{key}" if section else key, "default")
            line = f"{line.ljust(width)}  # {origin}"
        shown.append(line)
    return "\n".join(shown)
