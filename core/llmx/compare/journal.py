"""Lines that are added to a file as they come, so that a comparison that was killed goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar


class Keyed(Protocol):
    """A line with a key."""

    @property
    def key(self) -> str: ...

    def to_json(self) -> str: ...


Entry = TypeVar("Entry", bound=Keyed)


def read_entries(path: Path, read: Callable[[str], Entry | None]) -> dict[str, Entry]:
    """Return the entries of a file by their keys, of equal keys the last; lines that are none of ours are passed by."""
    if not path.exists():
        return {}
    return {entry.key: entry for entry in _entries(path, read)}


def _entries(path: Path, read: Callable[[str], Entry | None]) -> Iterator[Entry]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            entry = read(line)
            if entry is not None:
                yield entry


class Journal(Generic[Entry]):
    """Adds entries to a file; half a line that a kill left at its end is cut off first."""

    def __init__(self, path: Path, read: Callable[[str], Entry | None]) -> None:
        self.entries = read_entries(path, read)
        self._file = path.open("ab")
        whole = _whole_bytes(path)
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry
        self._file.write(entry.to_json().encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _whole_bytes(path: Path) -> int:
    """Return the length of a file up to its last line end."""
    at = end = path.stat().st_size
    with path.open("rb") as file:
        while at > 0:
            start = max(0, at - 65_536)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            at = start
    return 0 if end else end
