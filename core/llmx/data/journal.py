"""The folder in which a token store grows, and what is done of it, so that a killed preparation goes on."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from attrs import asdict, define, frozen

from llmx.data.split import SplitName
from llmx.data.store import Shard, ShardWriter, file_sha256
from llmx.errors import LlmxError
from llmx.files import fsync, fsync_folder, write_atomically

JOURNAL = "journal.json"
SPLITS: tuple[SplitName, ...] = ("train", "val")
ABANDONED_S = 7 * 24 * 3600.0
"""Unfinished work is deleted when it was not touched for this long: who has waited a week does not wait for it."""


@frozen
class Step:
    """A pair of shards, and how many documents the split had dealt when they were written."""

    documents: int
    shards: Mapping[SplitName, Shard]


@define
class Journal:
    """An unfinished store: whole shards, and the steps that made them.

    Args:
        identity: what the tokens depend on.
    """

    folder: Path
    identity: Mapping[str, Any]
    steps: list[Step]
    writers: dict[SplitName, ShardWriter]

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], vocab_size: int) -> Self:
        """Begin in a folder, or go on behind the last step there whose shards are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        steps = list(_whole_steps(folder, identity))
        kept = {name: [step.shards[name] for step in steps if name in step.shards] for name in SPLITS}
        names = {JOURNAL, *(shard.name for shards in kept.values() for shard in shards)}
        for path in folder.iterdir():  # of a shard that a kill left without its step
            if path.name not in names:
                path.unlink()
        writers = {name: ShardWriter(folder, name, vocab_size, kept[name]) for name in SPLITS}
        return cls(folder, identity, steps, writers)

    @property
    def documents(self) -> int:
        """Documents of the split that are done."""
        return self.steps[-1].documents if self.steps else 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens that are not in a shard yet."""
        return sum(writer.waiting_tokens for writer in self.writers.values())

    def flush(self, documents: int) -> None:
        """Write what is waiting, and note it as done once it is on the disk."""
        before = {name: len(writer.shards) for name, writer in self.writers.items()}
        for writer in self.writers.values():
            writer.flush()
        new = {name: writer.shards[-1] for name, writer in self.writers.items() if len(writer.shards) > before[name]}
        if new:
            fsync(self.folder)
            self.steps.append(Step(documents, new))
            plain = {"identity": dict(self.identity), "steps": [asdict(step) for step in self.steps]}
            write_atomically(self.folder / JOURNAL, json.dumps(plain))

    def publish(self, folder: Path) -> None:
        """Write the manifest, and put the store under its name in one step."""
        splits = {name: writer.summary() for name, writer in self.writers.items()}
        manifest = json.dumps({**self.identity, "splits": splits}, indent=1)
        (self.folder / "manifest.json").write_text(manifest, encoding="utf-8")
        fsync_folder(self.folder)
        self.folder.rename(folder)
        (folder / JOURNAL).unlink(missing_ok=True)
        fsync(folder.parent)


def _whole_steps(folder: Path, identity: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the steps of a journal up to the first whose shards are not as they were written."""
    try:
        found = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        steps = [_step(each) for each in found["steps"]] if found["identity"] == dict(identity) else []
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"llmx: {folder / JOURNAL} cannot be read ({error}): preparation begins again\n")
        return
    for step in steps:
        for shard in step.shards.values():
            path = folder / shard.name
            if not path.is_file() or file_sha256(path) != shard.sha256:
                sys.stderr.write(f"llmx: {path} is missing or altered: preparation goes on before it\n")
                return
        yield step


def _step(plain: dict[str, Any]) -> Step:
    return Step(plain["documents"], {name: Shard(**shard) for name, shard in plain["shards"].items()})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a store that is made: one process at a time, over machines that share the cache as well."""
    from filelock import FileLock, Timeout

    path = _lock_path(folder)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write("llmx: another process is preparing the same data: waiting for it\n")
        lock.acquire()
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}"
        raise LlmxError(f"{reason}: the cache cannot be written; set LLMX_CACHE to a folder that can") from error
    try:
        yield
    finally:
        lock.release()


def _lock_path(folder: Path) -> Path:
    return folder.parent / ".locks" / folder.name.removeprefix(".part-")


def clean_abandoned(root: Path) -> None:
    """Delete unfinished stores that nobody has worked on for a week, and those of versions that left theirs so."""
    from filelock import FileLock, Timeout

    for path in (*root.glob(".part-*"), *root.glob(".tmp-*")):
        if not _is_abandoned(path):
            continue
        lock = FileLock(_lock_path(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if _is_abandoned(path):  # another process may have worked on it, or finished it, since it was looked at
            shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _is_abandoned(path: Path) -> bool:
    try:
        touched = max(each.stat().st_mtime for each in (path, *path.glob(JOURNAL)))
    except FileNotFoundError:  # it is finished, or deleted, by another process
        return False
    return time.time() - touched >= ABANDONED_S
