"""Writing a page, and what else shows figures, where nothing of a user's stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmx.errors import LlmxError, RecipeError

HEAD_BYTES = 4096
"""How far into a file a mark of ours is looked for."""


def write_as_ours(out: Path, mark: bytes, write: Callable[[], object]) -> None:
    """Call `write` where `out` does not exist yet or holds a file of ours.

    Args:
        mark: what every file of this kind that we wrote holds near its top.

    Raises:
        RecipeError: `out` is a folder, or a file without the mark.
        LlmxError: it cannot be written.
    """
    if out.is_dir():
        raise RecipeError(f"{out}: is a folder: give the name of a file")
    try:
        if out.exists():
            with out.open("rb") as file:
                head = file.read(HEAD_BYTES)
            if mark not in head:
                raise RecipeError(f"{out}: exists and is no report of llmx: give another name")
        out.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise LlmxError(f"{out}: cannot be written: {error.strerror or error}: give another name") from None
