"""Rows cut from one long sequence of all documents, which wastes nothing.

`T` positions make a row; a window is the T + 1 tokens of their inputs and labels.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmx.data.batches import batch_of_windows, stream_seed
from llmx.data.pieces import nothing_left
from llmx.data.shards import Shards
from llmx.errors import DataError
from llmx.protocols import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from llmx.data.store import TokenStore


class StreamRows:
    """An endless sequence of windows: each epoch reads every one of the corpus once, in its own order.

    The windows of an epoch begin at an offset of its own, so that documents are cut at other places each time. Where a
    window may have no label that counts, there is no offset: those that have one are found at the start, and the last
    is padded.

    Args:
        store: the tokens of the documents.
        length: T.
        seed: of the order; None: every epoch in the order of the corpus, without an offset.
        split: "training" or "held-out", for messages.

    Raises:
        DataError: the corpus is shorter than one row, or no label counts.
    """

    def __init__(self, store: TokenStore, length: int, seed: int | None, split: str = "training") -> None:
        self.store = store
        self.length = length
        self.seed = seed
        self.tokens = store.tokens
        self.mixed = store.documents > 1
        self._shards = Shards(store)
        self._starts = self._shards.starts() if self.mixed else None
        self._windows: NDArray[np.int64] | None = None
        self._slack = self._left_out = 0
        if seed is None or _may_lack_labels(store, length):
            every = -(-max(store.tokens - 1, 0) // length)
            self._windows = _labelled_windows(self._shards, length, every)
            self._left_out = every - len(self._windows)
            self.rows_per_epoch = len(self._windows)
            if not self.rows_per_epoch:
                raise nothing_left(store, length, split)
        else:
            if store.tokens < length + 1:
                raise DataError(
                    f"data: the {split} text has {store.tokens} tokens, fewer than one row of {length} and its next "
                    f"token: give more text, or set data.sequence_length to at most {max(store.tokens - 1, 0)}"
                )
            self.rows_per_epoch = max(1, (store.tokens - length) // length)
            self._slack = store.tokens - 1 - self.rows_per_epoch * length
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows [position, position + rows) of the endless sequence."""
        windows_B = np.array([self._start(each) for each in range(position, position + rows)])
        return batch_of_windows(self._shards, windows_B, self.length, self._starts, self.tokens)

    def epoch(self, position: int) -> float:
        """Return how many epochs lie before a position."""
        return position / self.rows_per_epoch

    def facts(self) -> dict[str, int]:
        """Return what an epoch reads and what it does not, as `llmx.data.rows.Rows` says."""
        end = 0 if self._windows is None else (int(self._windows[-1]) + 1) * self.length
        return {
            "documents": self.store.documents,
            "tokens": self.tokens,
            "rows": self.rows_per_epoch,
            "positions": self.rows_per_epoch * self.length,
            "padding": max(0, end - self.tokens),
            "left_out_rows": self._left_out,
            "lost_turns": self.store.lost_turns,
        }

    def _start(self, position: int) -> int:
        epoch, index = divmod(position, self.rows_per_epoch)
        offset, order = self._epoch(epoch)
        window = int(order[index])
        if self._windows is not None:
            window = int(self._windows[window])
        return offset + window * self.length

    def _order(self, epoch: int) -> tuple[int, Tensor]:
        if self.seed is None:
            return 0, torch.arange(self.rows_per_epoch)
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        offset = int(torch.randint(self._slack + 1, (), generator=generator))
        return offset, torch.randperm(self.rows_per_epoch, generator=generator)


def _may_lack_labels(store: TokenStore, length: int) -> bool:
    """Return whether some window, wherever it begins, may have no label that counts."""
    if store.masked:
        return True
    # without masks that takes T - 1 documents of one token in a row, a T-th begun before and a last one after them
    longer = np.flatnonzero(store.lengths() > 1)
    gaps = np.diff(longer, prepend=-1, append=store.documents) - 1
    return bool(gaps.max(initial=0) >= length - 1)


def _labelled_windows(shards: Shards, length: int, every: int) -> NDArray[np.int64]:
    """Return the numbers of the windows, from the first token on, in which a label counts."""
    labelled = np.zeros(every, np.bool_)
    for shard in shards:
        label = np.ones(len(shard.ids), np.bool_) if shard.trained is None else shard.trained.astype(np.bool_)
        label[shard.offsets[:-1][np.diff(shard.offsets) > 0]] = False  # the first token of a document is none
        labelled[(shard.first_token + np.flatnonzero(label) - 1) // length] = True
    return np.flatnonzero(labelled)
