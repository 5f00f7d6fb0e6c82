"""What several commands share: arguments that name a recipe and override it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from llmx.errors import RecipeError
from llmx.layers import LISTS, NAMED, is_override
from llmx.registry import Registry

Command = TypeVar("Command", bound=Callable[..., Any])

SECTIONS = (*NAMED, *LISTS)


def name_options(command: Command) -> Command:
    """Add a flag for every kind of part: `--optimizer muon`, and `--logger` as often as wanted."""
    for section in reversed(SECTIONS):
        several = section in LISTS
        kind = {"data": "dataset"}.get(section, section)
        what = f"{kind}; again for more" if several else kind
        flags = [f"--{section}", *(["--dataset"] if section == "data" else []), section]
        command = click.option(*flags, multiple=several, metavar="NAME", help=f"Name of the {what}.")(command)
    return command


def split_arguments(arguments: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """Return the recipe and the `key=value` overrides among bare arguments, which come in any order.

    Raises:
        RecipeError: there is more than one that is no override.
    """
    overrides = [each for each in arguments if is_override(each) and not os.path.exists(each)]  # noqa: PTH110  # a Path raises for long names
    recipes = [each for each in arguments if each not in overrides]
    if len(recipes) > 1:
        raise RecipeError(f"{recipes[1]!r}: is neither an option, nor KEY=VALUE, and the recipe is {recipes[0]!r}")
    return (Path(recipes[0]) if recipes else None), overrides


def given_names(names: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that were named by flags."""
    return {section: list(v) if section in LISTS else v for section, v in names.items() if section in SECTIONS and v}


def first_rank() -> bool:
    """Return whether this process speaks for all that torchrun started, or was started alone."""
    return os.environ.get("RANK", "0") == "0"


def warn_of_broken(registry: Registry) -> None:
    """Say on stderr, a line each, what is wrong with plugins; a run that names none of them goes on."""
    for plugin in registry.plugins if first_rank() else ():
        who = f"llmx: plugin {plugin.name} of {plugin.distribution}"
        if plugin.status == "broken":
            click.echo(f"{who} did not load: {plugin.error}", err=True)
        elif plugin.status == "incompatible" or plugin.warning:
            click.echo(f"{who} {plugin.error or plugin.warning}", err=True)
