"""From documents to a token store in the cache, once for each corpus, split and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmx.data.split import Split, SplitName
from llmx.data.store import FORMAT, ShardWriter, verify
from llmx.errors import DataError
from llmx.files import fsync_folder, temporary_beside
from llmx.progress import progress
from llmx.protocols import Dataset, Tokenizer

BATCH_CHARS = 1_000_000
"""Text encoded at once: enough to keep a tokenizer's threads busy, little enough to hold."""


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
    return (text for name, text in split(dataset) if name == "train")


def prepare(dataset: Dataset, split: Split, tokenizer: Tokenizer, tokenizer_hash: str) -> Path:
    """Return the folder of a token store, made now unless the cache holds it.

    Raises:
        DataError: the corpus has no text.
    """
    identity = {
        "format": FORMAT,
        "dataset": dataset.fingerprint(),
        "held_out": split.held_out,
        "tokenizer": tokenizer_hash,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    folder = cached_tokens(key)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(folder)
        try:
            _write(temporary, dataset, split, tokenizer, identity)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    verify(folder)
    return folder


def _publish(temporary: Path, folder: Path) -> None:
    fsync_folder(temporary)
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # another process prepared the same in the meantime
            raise


def _write(folder: Path, dataset: Dataset, split: Split, tokenizer: Tokenizer, identity: dict[str, object]) -> None:
    writers = {name: ShardWriter(folder, name, tokenizer.vocab_size) for name in ("train", "val")}
    done = 0
    with progress("Encoding", "characters") as report:
        for names, texts in _batches(split(dataset)):
            for name, text, ids in zip(names, texts, tokenizer.encode_batch(texts), strict=True):
                size = len(text.encode("utf-8", "surrogatepass"))
                writers[name].add(encode_document(tokenizer, ids), size)
            done += sum(map(len, texts))
            report(done)
    for writer in writers.values():
        writer.flush()
    if not writers["train"].shards:
        raise DataError("data: the corpus holds no text to train on; check data.path and its fields")
    manifest = {**identity, "splits": {name: writer.summary() for name, writer in writers.items()}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def encode_document(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Put the beginning and end tokens that the tokenizer has around a document."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    return [*begin, *ids, *end]


def _batches(parts: Iterable[tuple[SplitName, str]]) -> Iterator[tuple[list[SplitName], list[str]]]:
    """Group texts, leaving out those with nothing but white space."""
    names: list[SplitName] = []
    texts: list[str] = []
    size = 0
    for name, text in parts:
        if text.strip():
            names.append(name)
            texts.append(text)
            size += len(text)
        if size >= BATCH_CHARS:
            yield names, texts
            names, texts, size = [], [], 0
    if texts:
        yield names, texts
