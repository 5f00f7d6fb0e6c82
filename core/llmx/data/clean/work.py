"""The folder of a clean that is not done: what is kept and rejected so far, and how far that is.

`state.json` is replaced in one step after the other files reached the disk; a resumed clean cuts those to the sizes it
says. So a kill at any moment costs the work since the last `commit` and changes no byte of the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from attrs import asdict, define

from llmx.data.clean.raw import Place
from llmx.data.clean.seen import Keys, Seen
from llmx.data.clean.tally import Tally
from llmx.errors import LlmxError, RecipeError
from llmx.files import fsync, write_atomically

STATE, KEPT, REJECTS, KEYS = "state.json", "kept.jsonl", "rejects.jsonl", "keys.bin"
FILES = (KEPT, REJECTS, KEYS)
LOCK = "lock"


@define
class Work:
    """What a clean has done.

    Attributes:
        folder: where it is kept until it is done.
        file: number of the input being read.
        place: how far that one was read.
    """

    folder: Path
    identity: dict[str, Any]
    kept: BinaryIO
    rejects: BinaryIO
    keys: BinaryIO
    file: int
    place: Place
    tally: Tally
    seen: Seen
    reader: BinaryIO

    def keep(self, line: bytes, keys: Keys) -> None:
        """Write a record, and remember its keys."""
        self.kept.write(line)
        end = self.kept.tell()
        self.keys.write(np.array([end, *keys.tolist()], np.uint64).tobytes())
        self.seen.add(end, keys)

    def record(self, number: int) -> bytes:
        """Return a record that was kept."""
        start, end = self.seen.span(number)
        self.kept.flush()
        self.reader.seek(start)
        return self.reader.read(end - start)

    def commit(self, *, done: bool = False) -> None:
        """Make what was done so far survive a kill."""
        for file in (self.kept, self.rejects, self.keys):
            file.flush()
            os.fsync(file.fileno())
        state = {
            "identity": self.identity,
            "file": self.file,
            "place": asdict(self.place),
            "sizes": [file.tell() for file in (self.kept, self.rejects, self.keys)],
            "tally": self.tally.to_json(),
            "done": done,
        }
        write_atomically(self.folder / STATE, json.dumps(state, ensure_ascii=False))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have the folder of a clean to oneself, made now if it is not there; it goes again if nothing was committed.

    Raises:
        RecipeError: the folder is something else.
        LlmxError: another process is at it.
    """
    from filelock import FileLock, Timeout

    if folder.exists() and not (folder / STATE).exists() and not _begun(folder):
        raise RecipeError(f"{folder}: exists and is no unfinished clean: move it away, or give OUT another name")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            try:
                yield
            except BaseException:
                if not (folder / STATE).exists():  # nothing was committed: there is nothing to go on from
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except Timeout:
        raise LlmxError(f"{folder}: another process is at this clean; wait for it") from None


def _begun(folder: Path) -> bool:
    """Return whether a folder holds nothing but what a clean leaves that was killed before its first commit."""
    return all(path.name in (*FILES, LOCK) or path.name.startswith(".tmp-") for path in folder.iterdir())


def read_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return how far a clean got.

    Raises:
        RecipeError: it is one of other files or options, or damaged.
    """
    if not (folder / STATE).exists():
        return {"file": 0, "place": {}, "sizes": [0, 0, 0], "tally": Tally().to_json(), "done": False}
    state = _state(folder)
    if state is None:
        raise RecipeError(f"{folder}: the unfinished clean that it holds is damaged: delete it and start again")
    before = state["identity"]
    if changed := [key for key in identity if before.get(key) != identity[key]]:
        raise RecipeError(
            f"{folder}: holds an unfinished clean with other {' and '.join(changed)}: "
            "give the same to go on, or delete it"
        )
    return state


def _state(folder: Path) -> dict[str, Any] | None:
    """Return what `commit` wrote, None where it is damaged, or where a file has less than it had then."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        Tally.from_json(state["tally"])
        Place(**state["place"])
        sizes = [0, 0, 0] if state["done"] else state["sizes"]  # then they may be where they belong
        kept = all((folder / name).stat().st_size >= size for name, size in zip(FILES, sizes, strict=True) if size)
        return state if kept and isinstance(state["identity"], dict) and isinstance(state["file"], int) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


@contextmanager
def open_work(folder: Path, identity: dict[str, Any], state: dict[str, Any], row: int) -> Iterator[Work]:
    """Go on from a state.

    Args:
        row: numbers that are kept of each record: its end and its keys.
    """
    for name, size in zip(FILES, state["sizes"], strict=True):
        (folder / name).touch()
        os.truncate(folder / name, size)
    for left in folder.glob(".tmp-*"):
        left.unlink()
    seen = Seen()
    seen.restore(np.fromfile(folder / KEYS, np.uint64).reshape(-1, row))
    with (
        (folder / KEPT).open("ab") as kept,
        (folder / REJECTS).open("ab") as rejects,
        (folder / KEYS).open("ab") as keys,
        (folder / KEPT).open("rb") as reader,
    ):
        tally, place = Tally.from_json(state["tally"]), Place(**state["place"])
        yield Work(folder, identity, kept, rejects, keys, state["file"], place, tally, seen, reader)


def publish(folder: Path, out: Path, rejects: Path) -> None:
    """Put the results where they belong, and delete the folder; a kill on the way leaves what this goes on with.

    Raises:
        RecipeError: something stands there by now.
    """
    if (folder / REJECTS).exists() and not (folder / REJECTS).stat().st_size:
        (folder / REJECTS).unlink()  # nothing was rejected
    for name, target in ((REJECTS, rejects), (KEPT, out)):
        if (folder / name).exists():
            if target.exists():
                raise RecipeError(f"{target}: exists by now: move it away and give the same command again")
            (folder / name).rename(target)
            fsync(target.parent)
    (folder / KEYS).unlink(missing_ok=True)
    (folder / STATE).unlink()  # as long as it is there, the same command comes back to this place
    shutil.rmtree(folder)
