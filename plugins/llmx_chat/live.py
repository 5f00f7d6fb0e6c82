"""A terminal while an answer comes: the speed on the line below it, and keys that do not mix with the text."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LEAST_COLUMNS = 40
DOWN_AND_UP = "\x1bD\x1b[A"
"""Makes sure that there is a line below; the column stays."""
SAVE, RESTORE, ERASE_BELOW = "\x1b7", "\x1b8", "\x1b[J"


class Live:
    """Writes text, and a line of status below where it ends, which goes before more text comes.

    The terminal keeps the place where the text goes on. That is not sure at the end of a line, where terminals wait to
    wrap: there is no status there. The column is estimated for that alone.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._column = 0
        self._shown = False

    def write(self, text: str, width_of: str | None = None, status: str = "") -> None:
        """Write text; `width_of` is what of it takes place, where it holds escape codes."""
        columns = _columns(self._file)
        self._column = _column_after(text if width_of is None else width_of, self._column, columns)
        out = (ERASE_BELOW if self._shown else "") + text
        self._shown = bool(status) and len(status) < columns >= LEAST_COLUMNS and self._column < columns - 2
        if self._shown:
            out += f"{DOWN_AND_UP}{SAVE}\r\n{status}{RESTORE}"
        self._file.write(out)
        self._file.flush()

    def close(self) -> None:
        """Take the status away."""
        self.write("")


def _columns(file: TextIO) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):  # no terminal of a known size
        return 0


def _column_after(text: str, column: int, columns: int) -> int:
    """Return where a text ends that begins in a column: about, for terminals do not agree on every character."""
    for character in text:
        if character == "\n":
            column = 0
        elif character == "\t":
            column = min((column // 8 + 1) * 8, columns - 1)
        else:
            width = _width(character)
            column = width if column + width > columns else column + width
    return column


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@contextmanager
def unseen_keys() -> Iterator[None]:
    """Do not show what is typed meanwhile: it waits for the next prompt. Ctrl-C stays what it is."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    without = [*before[:3], before[3] & ~(termios.ECHO | termios.ECHONL), *before[4:]]
    try:
        termios.tcsetattr(keys, termios.TCSANOW, without)
        yield
    finally:
        termios.tcsetattr(keys, termios.TCSANOW, before)
