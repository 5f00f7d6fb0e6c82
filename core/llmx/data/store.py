"""Tokens on disk: memory-mapped Arrow IPC shards with a manifest.

A shard is one record batch with a column `ids` of lists, one list a document, so its tokens lie in one buffer.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from llmx.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
SHARD_TOKENS = 8_000_000


@frozen
class Shard:
    """One file of a store."""

    name: str
    documents: int
    tokens: int
    sha256: str


class ShardWriter:
    """Collects the documents of one split and writes a shard whenever enough tokens have come."""

    def __init__(self, folder: Path, split: str, vocab_size: int) -> None:
        import pyarrow as pa

        self.folder = folder
        self.split = split
        self.type = pa.list_(pa.uint16() if vocab_size <= 2**16 else pa.int32())
        self.shards: list[Shard] = []
        self.text_bytes = 0
        self._waiting: list[Sequence[int]] = []
        self._tokens = 0

    def add(self, ids: Sequence[int], text_bytes: int) -> None:
        self._waiting.append(ids)
        self._tokens += len(ids)
        self.text_bytes += text_bytes
        if self._tokens >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one shard."""
        import pyarrow as pa

        if not self._waiting:
            return
        name = f"{self.split}-{len(self.shards):05d}.arrow"
        batch = pa.record_batch([pa.array(self._waiting, self.type)], names=["ids"])
        with pa.OSFile(str(self.folder / name), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        self.shards.append(Shard(name, len(self._waiting), self._tokens, file_sha256(self.folder / name)))
        self._waiting, self._tokens = [], 0

    def summary(self) -> dict[str, Any]:
        """Return this split's part of the manifest."""
        return {
            "documents": sum(shard.documents for shard in self.shards),
            "tokens": sum(shard.tokens for shard in self.shards),
            "text_bytes": self.text_bytes,
            "shards": [asdict(shard) for shard in self.shards],
        }


class TokenStore:
    """The tokens of one split as one long sequence, read where asked.

    Args:
        folder: where the shards and `manifest.json` are.
        split: "train" or "val".
    """

    def __init__(self, folder: Path, split: str) -> None:
        manifest = read_manifest(folder)["splits"][split]
        self.documents: int = manifest["documents"]
        self.tokens: int = manifest["tokens"]
        self.text_bytes: int = manifest["text_bytes"]
        self.predicted = self.tokens - self.documents
        """Tokens that follow another of their document; the first of each is never predicted."""
        self._ids: list[Tensor] = []
        self._starts: list[Tensor] = []
        self._first_token: list[int] = []
        self._first_document: list[int] = []
        tokens = documents = 0
        for shard in manifest["shards"]:
            ids, starts = _map(folder / shard["name"])
            self._ids.append(ids)
            self._starts.append(starts)
            self._first_token.append(tokens)
            self._first_document.append(documents)
            tokens, documents = tokens + shard["tokens"], documents + shard["documents"]

    def read(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Return tokens [start, start + length) and the number of the document of each, both int64."""
        import torch

        assert 0 <= start < start + length <= self.tokens, (start, length, self.tokens)
        ids, documents = [], []
        while length > 0:
            shard = bisect.bisect_right(self._first_token, start) - 1
            local = start - self._first_token[shard]
            piece = self._ids[shard][local : local + length].long()
            places = torch.arange(local, local + len(piece), dtype=self._starts[shard].dtype)
            ids.append(piece)
            local_document = torch.bucketize(places, self._starts[shard], right=True) - 1
            documents.append(local_document + self._first_document[shard])
            start, length = start + len(piece), length - len(piece)
        return torch.cat(ids), torch.cat(documents)


def _map(path: Path) -> tuple[Tensor, Tensor]:
    """Return a shard's tokens and the offsets where its documents begin, mapped, not read."""
    import pyarrow as pa
    from torch.utils.dlpack import from_dlpack

    column = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column("ids")
    return from_dlpack(column.values), from_dlpack(column.offsets)[:-1]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return `manifest.json` of a store.

    Raises:
        DataError: it is missing or of another format.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete the folder and prepare again") from None
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path}: format {manifest.get('format')!r}, this llmx reads {FORMAT}; delete the folder")
    return manifest


def verify(folder: Path) -> None:
    """Compare every shard of a store with its checksum.

    Raises:
        DataError: a shard is missing or altered.
    """
    for shard in (shard for split in read_manifest(folder)["splits"].values() for shard in split["shards"]):
        path = folder / shard["name"]
        if not path.exists() or file_sha256(path) != shard["sha256"]:
            raise DataError(f"{path}: missing or altered since it was written; delete {folder} to prepare again")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
