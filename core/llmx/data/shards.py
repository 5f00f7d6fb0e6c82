"""The shards of a store as arrays over the mapped files: many runs of tokens at once, and all documents at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmx.data.store import TokenStore


@frozen(eq=False)
class Shard:
    """One shard, not copied. It holds whole documents.

    Attributes:
        first_token: tokens of the shards before it.
        ids: its tokens.
        offsets: where each of its documents begins, and where the last one ends.
        trained: which tokens are trained on, 0 or 1; None: all.
    """

    first_token: int
    ids: NDArray[Any]
    offsets: NDArray[np.int32]
    trained: NDArray[np.uint8] | None


class Shards:
    """All shards of a store, in order."""

    def __init__(self, store: TokenStore) -> None:
        self.masked = store.masked
        self._shards = [
            Shard(first, each.ids.numpy(), each.offsets.numpy(), None if each.trained is None else each.trained.numpy())
            for first, each in zip(store.first_tokens, store.shards, strict=True)
        ]
        self._firsts = np.array([shard.first_token for shard in self._shards], np.int64)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def starts(self) -> NDArray[np.int64]:
        """Return where each document of the store begins."""
        return np.concatenate([np.zeros(0, np.int64), *(each.first_token + each.offsets[:-1] for each in self)])

    def read(self, starts: NDArray[Any], sizes: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Return the tokens of runs, one after the other, and which are trained on, or None in a store without masks.

        Args:
            starts: place of the first token of each run.
            sizes: tokens of each run.
        """
        at = np.searchsorted(self._firsts, starts, side="right") - 1
        local = starts - self._firsts[at]
        ids: list[NDArray[Any]] = []
        trained: list[NDArray[Any]] = []
        for number, start, size in zip(at.tolist(), local.tolist(), sizes.tolist(), strict=True):
            while True:
                shard = self._shards[number]
                ids.append(shard.ids[start : start + size])
                got = len(ids[-1])
                if self.masked:
                    mask = shard.trained
                    trained.append(np.ones(got, np.uint8) if mask is None else mask[start : start + size])
                if got == size:
                    break
                number, start, size = number + 1, 0, size - got
        found = np.concatenate(ids).astype(np.int64)
        return found, np.concatenate(trained).astype(np.bool_) if self.masked else None
