"""A clean from its inputs to its outputs."""

from __future__ import annotations

import codecs
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from llmx.data.clean.chats import chat_fault
from llmx.data.clean.fields import sense_of, texts_of, with_texts
from llmx.data.clean.files import find_inputs
from llmx.data.clean.near import BANDS, MinHash, jaccard, shingles_of, units_of
from llmx.data.clean.options import CleanOptions
from llmx.data.clean.raw import START, Place, Raw
from llmx.data.clean.read import read_records
from llmx.data.clean.seen import Keys
from llmx.data.clean.tally import Tally
from llmx.data.clean.texts import clean_text, half_character, key_text
from llmx.data.clean.work import Work, locked, open_work, publish, read_state
from llmx.errors import LlmxError, RecipeError
from llmx.files import FULL

FORMAT = 3
"""Of the result and of the work folder; raised when either changes."""

COMMIT_S = 5.0
"""Seconds of work that a kill may cost."""

BETWEEN = "\n\n"
"""Between the texts of one record where they are counted and compared as one."""

Report = Callable[[int], None]


class RejectedError(Exception):
    """A record goes, and why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(reason)


def clean(
    inputs: Sequence[str],
    out: Path,
    options: CleanOptions,
    *,
    rejects: Path | None = None,
    dry_run: bool = False,
    report: Report = lambda _: None,
) -> Tally:
    """Write the records of `inputs` that are whole, of the wanted length and not double to `out`; go on after a kill.

    Args:
        inputs: files, folders or patterns.
        out: a new JSONL file; beside it `out.cleaning/` holds the work until it is done.
        rejects: a new JSONL file for the other records, if there are any; by default `rejects.jsonl` beside `out`.
        dry_run: count, and write nothing that stays.
        report: called with the number of records read.

    Raises:
        RecipeError: an argument is wrong, or a file stands where one is to be written.
        DataError: an input cannot be read.
        LlmxError: the disk is full; what was done is kept.
    """
    paths = find_inputs(inputs)
    rejects = rejects or out.with_name("rejects.jsonl")
    _check(paths, out, rejects, options)
    identity = _identity(paths, rejects, options)
    with _folder(out, dry_run=dry_run) as folder, _room(folder), locked(folder):
        state = read_state(folder, identity)
        if not state["done"]:
            for target, name in () if dry_run else ((out, "OUT"), (rejects, "--rejects")):
                if target.exists():
                    raise RecipeError(f"{target}: exists: give {name} another name, or move it away")
            with open_work(folder, identity, state, 2 + (BANDS if options.near else 0)) as work:
                _run(work, paths, options, report)
        tally = Tally.from_json(read_state(folder, identity)["tally"])
        if not dry_run:
            publish(folder, out, rejects)
    return tally


def _check(paths: Sequence[Path], out: Path, rejects: Path, options: CleanOptions) -> None:
    if out.suffix != ".jsonl":
        raise RecipeError(f"{out}: OUT is written as JSON lines: give a name that ends in .jsonl")
    if out.resolve() == rejects.resolve():
        raise RecipeError(f"{rejects}: is OUT too: give --rejects another name")
    for target in (out, rejects):
        if any(path.resolve() == target.resolve() for path in paths):
            raise RecipeError(f"{target}: is one of the files to clean: give another name")
        target.parent.mkdir(parents=True, exist_ok=True)
    if out.parent.stat().st_dev != rejects.parent.stat().st_dev:
        raise RecipeError(f"--rejects {rejects}: must be on the file system of {out}: give another folder")
    if options.min_chars > options.max_chars:
        raise RecipeError(f"--min-chars {options.min_chars}: is more than --max-chars {options.max_chars}")
    if options.encoding is not None:
        try:
            codecs.lookup(options.encoding)
        except LookupError:
            raise RecipeError(f"--encoding {options.encoding}: no such encoding; try utf-8, gb18030, big5") from None


def _identity(paths: Sequence[Path], rejects: Path, options: CleanOptions) -> dict[str, Any]:
    """Return what decides the result, as JSON gives it back."""
    stats = [(str(path.resolve()), path.stat()) for path in paths]
    files = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    found = {"format": FORMAT, "files": files, "rejects": str(rejects.resolve()), "options": attrs.asdict(options)}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


@contextmanager
def _folder(out: Path, *, dry_run: bool) -> Any:
    """Give the folder of the work: beside OUT, or one that goes when the work is done."""
    if not dry_run:
        yield out.with_name(f"{out.name}.cleaning")
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch) / "cleaning"


@contextmanager
def _room(folder: Path) -> Any:
    """Say in a plain line that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise LlmxError(f"{folder}: {error.strerror}: free space there and give the same command again") from error


def _run(work: Work, paths: Sequence[Path], options: CleanOptions, report: Report) -> None:
    judge = Judge(work, options)
    committed = time.monotonic()
    while work.file < len(paths):
        path = paths[work.file]
        for told, raw in read_records(path, options, work.place):
            if told != "utf-8":
                work.tally.encodings[str(path)] = told
            try:
                judge(raw)
            except RejectedError as error:
                work.tally.rejected[error.reason] += 1
                work.rejects.write(_reject_row(path, raw, error))
            work.place = raw.after
            report(work.tally.records)
            if time.monotonic() - committed > COMMIT_S:
                work.commit()
                committed = time.monotonic()
        work.file, work.place = work.file + 1, Place()
    work.commit(done=True)


class Judge:
    """Decides over one record after the other, and writes those that are kept."""

    def __init__(self, work: Work, options: CleanOptions) -> None:
        self.work, self.options = work, options
        self.minhash = MinHash(options.near, options.shingle) if options.near else None

    def __call__(self, raw: Raw) -> None:
        """Keep a record.

        Raises:
            RejectedError: it is not kept.
        """
        if raw.fault:
            raise RejectedError(*raw.fault)
        if not isinstance(raw.value, dict):
            raise RejectedError("no-object", f"is {type(raw.value).__name__}")
        before = texts_of(raw.value, self.options.fields)
        if before is None:
            raise RejectedError("no-text-field", f"has {', '.join(raw.value) or 'no field'}"[:START])
        for text in before:
            if half := half_character(text):
                raise RejectedError("half-character", f"has {half}")
        value = with_texts(raw.value, self.options.fields, lambda text: clean_text(text, self.options))
        after = texts_of(value, self.options.fields) or []
        whole = BETWEEN.join(filter(None, after))
        self._measure(whole)
        if not self.options.fields and (fault := chat_fault(value)):  # what fields of the user's mean is not known
            raise RejectedError(*fault)
        keys = self._compare(whole, value)
        changed = after != before
        self.work.tally.kept += 1
        self.work.tally.changed += changed
        self.work.tally.lengths.add(len(whole))
        self.work.keep(_line(raw, value, changed=changed), keys)

    def _measure(self, text: str) -> None:
        if not text.strip():
            raise RejectedError("empty")
        if len(text) < self.options.min_chars:
            raise RejectedError("too-short", f"{len(text)} characters")
        if len(text) > self.options.max_chars:
            raise RejectedError("too-long", f"{len(text):,} characters")

    def _compare(self, text: str, value: dict[str, Any]) -> Keys:
        """Return the keys of a record that is not double.

        Args:
            text: all that it says.
        """
        exact = key_of(sense_of(value, self.options.fields, lambda _, each: key_text(each)))
        seen = self.work.seen
        if (record := seen.find(exact)) is not None:
            raise RejectedError("duplicate", f"of record {record + 1}")
        if self.minhash is None:
            return np.array([exact], np.uint64)
        # records with other fields, roles or calls are no near duplicates, so that each sort has keys of its own
        sort = key_of(sense_of(value, self.options.fields, lambda part, each: part if each.strip() else ""))
        keys = self.minhash.keys(units_of(text))
        keys = np.where(keys, keys ^ np.uint64(sort), 0)
        candidates = {record for key in keys.tolist() if key and (record := seen.find(key)) is not None}
        mine = self._shingles(value) if candidates else {}
        for record in sorted(candidates):
            share = common_share(mine, self._shingles(json.loads(self.work.record(record))))
            if share >= self.options.near:
                raise RejectedError("near-duplicate", f"{share:.3f} as record {record + 1}")
        return np.concatenate([np.array([exact], np.uint64), keys])

    def _shingles(self, value: dict[str, Any]) -> dict[str, set[str]]:
        """Return the shingles of what a record says in each of its parts: as the user, as the chosen answer, …"""
        texts: dict[str, list[str]] = {}

        def see(part: str, text: str) -> str:
            texts.setdefault(part, []).append(text)
            return text

        sense_of(value, self.options.fields, see)
        return {
            part: shingles_of(units_of(BETWEEN.join(filter(None, each))), self.options.shingle)
            for part, each in texts.items()
        }


def common_share(one: dict[str, set[str]], other: dict[str, set[str]]) -> float:
    """Return the share of shingles that two records have in common, in the part in which they differ most."""
    parts = [(one.get(part, set()), other.get(part, set())) for part in one.keys() | other.keys()]
    return min((jaccard(*pair) for pair in parts if any(pair)), default=0.0)


def key_of(sense: list[Any]) -> int:
    """Return 64 bits of a hash over a record; of 100 million different records two have one key with 3 in 10,000."""
    digest = hashlib.blake2b(json.dumps(sense, sort_keys=True).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") or 1


def _line(raw: Raw, value: dict[str, Any], *, changed: bool) -> bytes:
    """Return the line of a record: as it was written, unless a text of it was changed."""
    if raw.written is not None and not changed:
        return raw.written.encode() + b"\n"
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if half_character(text):  # in a field that is no text
        text = json.dumps(value, allow_nan=False)
    return text.encode() + b"\n"


def _reject_row(path: Path, raw: Raw, error: RejectedError) -> bytes:
    row = {"file": str(path), "line": raw.line, "reason": error.reason, "detail": error.detail}
    return (
        json.dumps({**row, "start": raw.start.decode("utf-8", "backslashreplace")}, ensure_ascii=False).encode() + b"\n"
    )
