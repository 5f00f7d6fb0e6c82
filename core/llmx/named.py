"""Models and adapters by names of their own, as a command is given them: `NAME=FOLDER`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from llmx.errors import RecipeError

BASE = "base"
"""What a model is called that has no adapter of a name."""
NAMED = re.compile(r"([^\s=]{1,200})=(.+)", re.DOTALL)


def split_named(given: str, option: str) -> tuple[str, Path]:
    """Return the name and the folder of an option's `NAME=FOLDER`.

    Raises:
        RecipeError: one of them is lacking, or the name has spaces or is longer than requests could tell.
    """
    match = NAMED.fullmatch(given)
    if match is None:
        raise RecipeError(f"{option} {given!r}: must be NAME=FOLDER, the name without spaces")
    return match[1], Path(match[2])


def split_adapter(given: str) -> tuple[str, Path]:
    """Return the name and the folder of `--adapter [NAME=]FOLDER`; without a name it is that of the folder.

    Raises:
        RecipeError: one of them is empty, or the name is that of the model itself.
    """
    whole = "=" not in given or Path(given).is_dir()  # as runs/lr=1 is
    name, folder = (Path(given).resolve().name, Path(given)) if whole else split_named(given, "--adapter")
    if not given or not name:
        raise RecipeError(f"--adapter {given!r}: must be NAME=FOLDER, or a folder")
    require_other_than_base(name)
    return name, folder


def split_adapters(given: Iterable[str]) -> dict[str, Path]:
    """Return the folders of several `--adapter [NAME=]FOLDER` by name.

    Raises:
        RecipeError: one is at fault, or two have one name.
    """
    found: dict[str, Path] = {}
    for name, folder in map(split_adapter, given):
        if name in found:
            raise RecipeError(
                f"--adapter: {name!r} is the name of {found[name]} and of {folder}: give another, --adapter NAME=FOLDER"
            )
        found[name] = folder
    return found


def require_other_than_base(name: str) -> None:
    """Check that an adapter does not take the name of the model itself.

    Raises:
        RecipeError: it does.
    """
    if name == BASE:
        raise RecipeError(f"adapter {name!r}: so the model without an adapter is called: give another name")
