"""From documents to a token store in the cache, once for each corpus, split, template and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.data.blocks import Reader
from llmx.data.documents import texts_of
from llmx.data.engine import EngineName, encode
from llmx.data.journal import JOURNAL, Journal, clean_abandoned, locked
from llmx.data.split import Split
from llmx.data.store import FORMAT, verify
from llmx.errors import DataError, LlmxError
from llmx.files import FULL
from llmx.progress import progress
from llmx.protocols import Dataset

if TYPE_CHECKING:
    from llmx.data.encode import Encoder

SHARD_TOKENS = 8_000_000
"""Tokens of a pair of shards: what is held in memory, and at most lost by a kill. 16 or 32 MB."""


@frozen
class Prepared:
    """A token store, and how it came to be there.

    Attributes:
        made: False where the cache had it whole.
        resumed_documents: documents that a preparation which was stopped had done.
    """

    folder: Path
    made: bool = False
    resumed_documents: int = 0


def cache_root() -> Path:
    """Return the folder for prepared data: `LLMX_CACHE`, or `llmx` under the user's cache folder."""
    if "LLMX_CACHE" in os.environ:
        return Path(os.environ["LLMX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmx"


def cached_tokens(key: str) -> Path:
    """Return the folder of the token store with this key, there or not."""
    return cache_root() / "tokens" / key


def training_texts(dataset: Dataset, split: Split) -> Iterator[str]:
    """Return the texts a tokenizer may learn from: the training split alone."""
    for name, document in split(dataset):
        if name == "train":
            yield from texts_of(document)


def prepare(
    dataset: Dataset,
    split: Split,
    encoder: Encoder,
    tokenizer_hash: str,
    *,
    engine: EngineName = "local",
    workers: int | None = None,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Return the folder of a token store, made now unless the cache holds it.

    Args:
        engine: what encodes; the store does not depend on it.
        workers: processes that encode; None chooses by the cores.
        report: called with the characters that are encoded; None shows them on the terminal.

    Raises:
        DataError: the corpus has no text, changes while it is read, or cannot be read to its end.
        LlmxError: the disk is full, or a worker died. What was done is kept then, as where reading failed, and the next
            call goes on from there.
    """
    return prepared(dataset, split, encoder, tokenizer_hash, engine=engine, workers=workers, report=report).folder


def prepared(
    dataset: Dataset,
    split: Split,
    encoder: Encoder,
    tokenizer_hash: str,
    *,
    engine: EngineName = "local",
    workers: int | None = None,
    report: Callable[[int], None] | None = None,
    every_byte: bool = False,
) -> Prepared:
    """Do what `prepare` does, and say how much of it was there.

    Args:
        every_byte: compare a store of the cache with its checksums though nothing seems to have changed.
    """
    identity = identity_of(dataset, split, encoder, tokenizer_hash)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    folder = cached_tokens(key)
    found = Prepared(folder)
    if not folder.exists():
        with locked(folder):
            if not folder.exists():  # another process may have made it while this one waited
                clean_abandoned(folder.parent)
                with nullcontext(report) if report else progress("Encoding", "characters") as tell:
                    resumed = _make(folder, identity, Reader(dataset, split), encoder, engine, workers, tell)
                found = Prepared(folder, True, resumed)
    verify(folder, every_byte=every_byte)
    return found


def identity_of(dataset: Dataset, split: Split, encoder: Encoder, tokenizer_hash: str) -> dict[str, Any]:
    """Return all that the tokens of a store depend on."""
    return {
        "format": FORMAT,
        "shard_tokens": SHARD_TOKENS,
        "dataset": dataset.fingerprint(),
        "held_out": split.held_out,
        "dealt": [list(each) for each in sorted((split.dealt or {}).items())],
        "tokenizer": tokenizer_hash,
        "encoder": encoder.identity(),
    }


def _make(
    folder: Path,
    identity: dict[str, Any],
    reader: Reader,
    encoder: Encoder,
    engine: EngineName,
    workers: int | None,
    report: Callable[[int], None],
) -> int:
    """Make a store, or what is left of it to be made, and return the documents that were there."""
    part = folder.with_name(f".part-{folder.name}")
    try:
        journal = Journal.open(part, identity, encoder.tokenizer.vocab_size)
        resumed = journal.documents
        try:
            _fill(journal, Reader(reader.dataset, reader.split, resumed), encoder, engine, workers, report)
        except KeyboardInterrupt as stop:
            stop.add_note(_kept(journal.documents))
            raise
        fault = _fault(journal, reader.dataset.fingerprint() != identity["dataset"])
        if fault:
            shutil.rmtree(part, ignore_errors=True)
            raise DataError(fault)
        journal.publish(folder)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(error, part) from error
    finally:
        if not (part / JOURNAL).exists():  # no shard of it is whole; those that are wait for the next try
            shutil.rmtree(part, ignore_errors=True)
    return resumed


def _kept(documents: int) -> str:
    """Return what to say to who stopped a preparation."""
    if documents:
        return f"the same command goes on after the {documents:,} documents that are encoded"
    return "no shard was whole yet, so the same command encodes from the beginning"


def _fault(journal: Journal, changed: bool) -> str | None:
    """Return why what was made of the whole corpus cannot be used, and never will be."""
    if changed:
        return "data: the corpus changed while it was read; start again when nothing writes to it"
    if not journal.writers["train"].shards:
        return "data: the corpus holds no text to train on; check data.path and its fields"
    return None


def _fill(
    journal: Journal,
    reader: Reader,
    encoder: Encoder,
    engine: EngineName,
    workers: int | None,
    report: Callable[[int], None],
) -> None:
    """Encode what the reader gives and write it. Where shards end depends on the documents alone."""
    chars, end = 0, reader.skip
    with closing(encode(engine, reader, encoder, workers)) as blocks:
        for block, tokens in blocks:
            for name, end, document in zip(block.splits, block.ends, tokens, strict=True):
                journal.writers[name].add(*document)
                if journal.waiting_tokens >= SHARD_TOKENS:
                    journal.flush(end)
            chars += block.chars
            report(chars)
    journal.flush(end)


def _full(error: OSError, part: Path) -> LlmxError:
    """Return what to say of a full disk; shards that are whole are kept for the next try."""
    kept = (part / JOURNAL).exists()
    after = "the same command then goes on from the last whole shard" if kept else "then start again"
    return LlmxError(f"{part.parent}: {error.strerror}: free space or set LLMX_CACHE to a folder with more; {after}")
