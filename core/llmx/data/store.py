"""Tokens on disk: memory-mapped Arrow IPC shards with a manifest.

A shard is one record batch with a column `ids` of lists, one list a document, so its tokens lie in one buffer. Where a
document of the shard has tokens that are not trained on, a column `trained` of the same lists says which are.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import asdict, frozen

from llmx.errors import DataError
from llmx.files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FORMAT = 2
TOTALS = ("documents", "tokens", "predicted", "text_bytes", "lost_turns")
"""What the manifest says of a split besides its shards: sums over these."""
VERIFIED = "verified.json"
"""Sizes and times of the files of a store when they were last compared with their checksums."""
SETTLED_S = 2.0
"""A file is not believed to be unchanged by its times until it is older than this: a clock may tick coarsely."""


@frozen
class Shard:
    """One file of a store.

    Attributes:
        predicted: tokens that follow another of their document and are trained on.
        masked: whether it has a column `trained`.
        lost_turns: turns of chats that were to be trained on, and that the template does not let be.
    """

    name: str
    documents: int
    tokens: int
    predicted: int
    masked: bool
    text_bytes: int
    lost_turns: int
    sha256: str


class ShardWriter:
    """Collects the documents of one split and writes them as a shard.

    Args:
        vocab_size: of the tokenizer; up to 65,536 an id takes two bytes, and four beyond.
        shards: those that were written before, when a preparation goes on.
    """

    def __init__(self, folder: Path, split: str, vocab_size: int, shards: Sequence[Shard] = ()) -> None:
        self.folder = folder
        self.split = split
        self.vocab_size = vocab_size
        self.dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)
        self.shards = list(shards)
        self.waiting_tokens = 0
        self._ids: list[NDArray[Any]] = []
        self._trained: list[NDArray[Any] | None] = []
        self._text_bytes = self._lost_turns = 0

    def add(
        self,
        ids: NDArray[Any] | Sequence[int],
        text_bytes: int,
        trained: NDArray[Any] | Sequence[bool] | None = None,
        lost_turns: int = 0,
        boundary: int = 0,
    ) -> None:
        """Take a document: its ids, the bytes of its text, which tokens are trained on (None: all), its lost turns.

        A document that gave no token is left out. A preference pair has a boundary, and is two documents, which are
        neighbours in one shard.
        """
        if not len(ids):
            return
        for part in (slice(0, boundary), slice(boundary, None)) if boundary else (slice(None),):
            self._ids.append(np.asarray(ids[part]))
            self._trained.append(None if trained is None else np.asarray(trained[part], np.uint8))
        self._text_bytes += text_bytes
        self._lost_turns += lost_turns
        self.waiting_tokens += len(ids)

    def flush(self) -> None:
        """Write what is waiting as one shard, in one step.

        Raises:
            DataError: an id is none of the tokenizer's.
        """
        if not self._ids:
            return
        lengths = np.array([len(each) for each in self._ids])
        values = self._values()
        trained, predicted = self._mask(lengths)
        name = f"{self.split}-{len(self.shards):05d}.arrow"
        digest = _write_shard(self.folder / name, lengths, values, trained)
        counts = (len(lengths), len(values), predicted, trained is not None, self._text_bytes, self._lost_turns)
        self.shards.append(Shard(name, *counts, digest))
        self._ids, self._trained = [], []
        self._text_bytes = self._lost_turns = self.waiting_tokens = 0

    def _values(self) -> NDArray[Any]:
        values = np.concatenate(self._ids)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.vocab_size:  # cast, it would be another token
            wrong = low if low < 0 else high
            raise DataError(f"tokenizer: it made the id {wrong}, outside its vocabulary of {self.vocab_size} ids")
        return values.astype(self.dtype, copy=False)

    def _mask(self, lengths: NDArray[Any]) -> tuple[NDArray[Any] | None, int]:
        """Return the column `trained`, None where every token is, and how many tokens are predicted."""
        if all(each is None for each in self._trained):
            return None, int((lengths - 1).sum())
        pairs = zip(self._trained, lengths, strict=True)
        trained = np.concatenate([np.ones(n, np.uint8) if each is None else each for each, n in pairs])
        starts = np.cumsum(lengths) - lengths
        return trained, int(trained.sum() - trained[starts].sum())

    def summary(self) -> dict[str, Any]:
        """Return this split's part of the manifest."""
        return {
            **{key: sum(getattr(shard, key) for shard in self.shards) for key in TOTALS},
            "masked": any(shard.masked for shard in self.shards),
            "shards": [asdict(shard) for shard in self.shards],
        }


def _write_shard(path: Path, lengths: NDArray[Any], values: NDArray[Any], trained: NDArray[Any] | None) -> str:
    """Write one file, under its name only when it is whole and on the disk, and return its SHA-256."""
    import pyarrow as pa

    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = {"ids": values} if trained is None else {"ids": values, "trained": trained}
    lists = [pa.ListArray.from_arrays(offsets, pa.array(each)) for each in columns.values()]
    batch = pa.record_batch(lists, names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()


class TokenStore:
    """The tokens of one split as one long sequence, read where asked; nothing is held but the mapped files.

    Args:
        folder: where the shards and `manifest.json` are.
        split: "train" or "val".

    Attributes:
        predicted: labels that count: tokens that follow another of their document and are trained on.
        lost_turns: turns that were to be trained on, and that the template does not let be.
        masked: whether some token is not trained on.
        pairs: whether documents 2k and 2k + 1 are a preference pair, the better one first.
        shards: in their order.
        first_tokens: for each shard, the tokens before it.
    """

    def __init__(self, folder: Path, split: str) -> None:
        whole = read_manifest(folder)
        self.pairs: bool = whole.get("encoder", {}).get("pairs", False)
        manifest = whole["splits"][split]
        self.documents: int = manifest["documents"]
        self.tokens: int = manifest["tokens"]
        self.text_bytes: int = manifest["text_bytes"]
        self.predicted: int = manifest["predicted"]
        self.lost_turns: int = manifest["lost_turns"]
        self.masked: bool = manifest["masked"]
        self.shards = [_map(folder / shard["name"]) for shard in manifest["shards"]]
        self.first_tokens: list[int] = []
        self._first_documents: list[int] = []
        tokens = documents = 0
        for shard in manifest["shards"]:
            self.first_tokens.append(tokens)
            self._first_documents.append(documents)
            tokens, documents = tokens + shard["tokens"], documents + shard["documents"]

    def read(self, start: int, length: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens [start, start + length), the number of the document of each, and which are trained on.

        The first two are int64, the third is bool, or None in a store without masks.
        """
        import torch

        assert 0 <= start < start + length <= self.tokens, (start, length, self.tokens)
        ids, documents, trained = [], [], []
        while length > 0:
            at = bisect.bisect_right(self.first_tokens, start) - 1
            shard, local = self.shards[at], start - self.first_tokens[at]
            piece = shard.ids[local : local + length].long()
            places = torch.arange(local, local + len(piece), dtype=shard.offsets.dtype)
            ids.append(piece)
            documents.append(torch.bucketize(places, shard.offsets[:-1], right=True) - 1 + self._first_documents[at])
            if self.masked:
                trained.append(_trained(shard, local, local + len(piece)))
            start, length = start + len(piece), length - len(piece)
        return torch.cat(ids), torch.cat(documents), torch.cat(trained) if self.masked else None

    def document(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return the ids of a document, int64, and which are trained on, bool, or None in a store without masks."""
        assert 0 <= number < self.documents, (number, self.documents)
        at = bisect.bisect_right(self._first_documents, number) - 1
        shard, local = self.shards[at], number - self._first_documents[at]
        start, end = int(shard.offsets[local]), int(shard.offsets[local + 1])
        return shard.ids[start:end].long(), _trained(shard, start, end) if self.masked else None

    def lengths(self) -> NDArray[np.int32]:
        """Return the number of tokens of every document."""
        if not self.shards:
            return np.zeros(0, np.int32)
        return np.concatenate([np.diff(shard.offsets.numpy()).astype(np.int32) for shard in self.shards])


@frozen(eq=False)
class MappedShard:
    """A shard's buffers, mapped, not read."""

    ids: Tensor
    offsets: Tensor
    trained: Tensor | None


def _map(path: Path) -> MappedShard:
    import pyarrow as pa
    from torch.utils.dlpack import from_dlpack

    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    ids = batch.column("ids")
    trained = from_dlpack(batch.column("trained").values) if "trained" in batch.schema.names else None
    return MappedShard(from_dlpack(ids.values), from_dlpack(ids.offsets), trained)


def _trained(shard: MappedShard, start: int, end: int) -> Tensor:
    import torch

    if shard.trained is None:
        return torch.ones(end - start, dtype=torch.bool)
    return shard.trained[start:end].bool()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return `manifest.json` of a store.

    Raises:
        DataError: it is missing, damaged or of another format.
    """
    path = folder / "manifest.json"
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete the folder and prepare again") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found is not None and found != FORMAT:
        raise DataError(f"{path}: format {found!r}, this llmx reads {FORMAT}; delete the folder")
    if found is None or not _is_whole(manifest):
        raise DataError(f"{path}: is damaged or no manifest of a token store; delete the folder and prepare again")
    whole: dict[str, Any] = manifest
    return whole


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Return whether all that a store is opened with is in a manifest."""
    try:
        for split in (manifest["splits"][name] for name in ("train", "val")):
            if not all(isinstance(split[key], int) for key in (*TOTALS, "masked")):
                return False
            for shard in split["shards"]:
                Shard(**shard)
    except (KeyError, TypeError):
        return False
    return True


def verify(folder: Path, *, every_byte: bool = False) -> None:
    """Compare the shards of a store with their checksums.

    A shard whose size and times are those of the last comparison is not read again: hashing gigabytes on each start
    would cost more than it finds.

    Args:
        every_byte: read all the same, which also finds what a failing disk did.

    Raises:
        DataError: a shard is missing or altered.
    """
    shards = [shard for split in read_manifest(folder)["splits"].values() for shard in split["shards"]]
    known = {} if every_byte else _verified(folder)
    stamps = {}
    for shard in shards:
        path = folder / shard["name"]
        before = _stamp(path)
        if before is None or (known.get(shard["name"]) != before and file_sha256(path) != shard["sha256"]):
            raise DataError(f"{path}: missing or altered since it was written; delete {folder} to prepare again")
        stamps[shard["name"]] = before
    newest = max((max(stamp[1:3]) for stamp in stamps.values()), default=0) / 1e9
    if stamps != known and newest < time.time() - SETTLED_S:
        with suppress(OSError):  # a disk that is full or only read costs no more than the shortcut
            write_atomically(folder / VERIFIED, json.dumps(stamps))


def _verified(folder: Path) -> dict[str, list[int]]:
    """Return the stamps of the last comparison; none where the file is missing or damaged, which costs a comparison."""
    try:
        found = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> list[int] | None:
    """Return size, times of change and number of a file; the second time and the number no program sets back."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
