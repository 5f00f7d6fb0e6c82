"""Models and adapters by names of their own, as a command is given them: `NAME=FOLDER`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmx.errors import RecipeError

BASE = "base"
"""What a model is called that has no adapter of a name."""


def split_adapter(given: str) -> tuple[str, Path]:
    """Return the name and the folder of `--adapter [NAME=]FOLDER`; without a name it is that of the folder.

    Raises:
        RecipeError: one of them is empty, or the name is that of the model itself.
    """
    name, equals, folder = given.partition("=")
    if not equals:
        name, folder = Path(given).resolve().name, given
    if not name or not folder:
        raise RecipeError(f"--adapter {given!r}: must be NAME=FOLDER, or a folder")
    require_other_than_base(name)
    return name, Path(folder)


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
