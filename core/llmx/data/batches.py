"""Batches whose order is a pure function of (seed, epoch, position): resume is a number, not a state.

Shapes: `B` rows, `T` tokens of a row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from llmx.data.store import TokenStore
from llmx.errors import DataError
from llmx.protocols import IGNORE, Batch


class TrainingRows:
    """An endless sequence of rows: each epoch reads every window of the corpus once, in its own order.

    The windows of an epoch begin at an offset of its own, so that documents are cut at other places each time.

    Args:
        store: the training tokens.
        length: T, tokens of a row.
        seed: of the order.

    Raises:
        DataError: the corpus is shorter than one row.
    """

    def __init__(self, store: TokenStore, length: int, seed: int) -> None:
        if store.tokens < length + 1:
            raise DataError(
                f"data: the training text has {store.tokens} tokens, fewer than one row of {length} and its next "
                f"token: give more text, or set data.sequence_length to at most {max(store.tokens - 1, 0)}"
            )
        self.store = store
        self.length = length
        self.seed = seed
        self.rows_per_epoch = max(1, (store.tokens - length) // length)
        self._slack = store.tokens - 1 - self.rows_per_epoch * length
        self._epoch = functools.lru_cache(maxsize=2)(self._order)

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows [position, position + rows) of the endless sequence."""
        starts = [self._start(each) for each in range(position, position + rows)]
        return make_batch([self.store.read(start, self.length + 1) for start in starts], self.length, self._mixed)

    def epoch(self, position: int) -> float:
        """Return how many epochs lie before a position."""
        return position / self.rows_per_epoch

    @property
    def _mixed(self) -> bool:
        return self.store.documents > 1

    def _start(self, position: int) -> int:
        epoch, index = divmod(position, self.rows_per_epoch)
        offset, order = self._epoch(epoch)
        return offset + int(order[index]) * self.length

    def _order(self, epoch: int) -> tuple[int, Tensor]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        offset = int(torch.randint(self._slack + 1, (), generator=generator))
        return offset, torch.randperm(self.rows_per_epoch, generator=generator)


def held_out_batches(store: TokenStore, length: int, rows: int, most_tokens: int | None) -> Iterator[Batch]:
    """Yield every held-out token once, in order, the last row padded; at most about `most_tokens` of them."""
    end = store.tokens - 1
    if most_tokens is not None:
        end = min(end, -(-most_tokens // length) * length)
    starts = range(0, end, length)
    for first in range(0, len(starts), rows):
        pieces = [store.read(s, min(length + 1, end + 1 - s)) for s in starts[first : first + rows]]
        yield make_batch(pieces, length, store.documents > 1)


def make_batch(pieces: list[tuple[Tensor, Tensor]], length: int, mixed: bool) -> Batch:
    """Make a batch of (tokens, documents) pieces of at most length + 1 tokens.

    Args:
        mixed: whether pieces may hold more than one document; if so the batch tells them apart.
    """
    ids_BT = torch.zeros(len(pieces), length, dtype=torch.long)
    labels_BT = torch.full((len(pieces), length), IGNORE)
    documents_BT = torch.full((len(pieces), length), -1)
    for row, (ids, documents) in enumerate(pieces):
        known = len(ids) - 1
        ids_BT[row, :known] = ids[:-1]
        # the next token is no label where another document begins
        labels_BT[row, :known] = torch.where(documents[1:] == documents[:-1], ids[1:], IGNORE)
        documents_BT[row, :known] = documents[:-1]
    return Batch(
        ids_BT,
        labels_BT,
        documents_BT if mixed else None,
        positions_in(documents_BT) if mixed else None,
        int((labels_BT != IGNORE).sum()),
    )


def positions_in(documents_BT: Tensor) -> Tensor:
    """Return the place of each token since its document began in its row."""
    place_BT = torch.arange(documents_BT.shape[1]).expand_as(documents_BT)
    starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return place_BT - torch.where(starts_BT, place_BT, 0).cummax(dim=1).values


def stream_seed(seed: int, *names: object) -> int:
    """Return a seed for one use of randomness, unrelated to those of other names and seeds."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
