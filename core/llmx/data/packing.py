"""Rows of whole documents: several to a row where they fit, or one.

`T` positions make a row.
"""

from __future__ import annotations

import bisect
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from llmx.data.batches import batch_of_pieces, shuffled
from llmx.data.pieces import Pieces, cut_documents, whole_pairs
from llmx.data.shards import Shards
from llmx.protocols import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmx.data.store import TokenStore


class PieceRows:
    """An endless sequence of rows of pieces: each epoch reads every row once, in its own order.

    Args:
        pieces: row after row.
        firsts: number of the first piece of each row, and at the end how many pieces there are.
        facts: what became of the documents.
    """

    mixed: bool

    def __init__(
        self, store: TokenStore, length: int, seed: int, pieces: Pieces, firsts: NDArray[Any], facts: dict[str, int]
    ) -> None:
        self.store = store
        self.length = length
        self.seed = seed
        self.tokens = store.tokens
        self.rows_per_epoch = len(firsts) - 1
        self._shards = Shards(store)
        self._pieces = pieces
        self._firsts = firsts
        self._facts = facts
        self._order = functools.lru_cache(maxsize=2)(lambda epoch: shuffled(self.rows_per_epoch, seed, "order", epoch))

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows [position, position + rows) of the endless sequence."""
        places = [divmod(each, self.rows_per_epoch) for each in range(position, position + rows)]
        chosen = np.array([self._order(epoch)[index] for epoch, index in places])
        firsts, ends = self._firsts[chosen], self._firsts[chosen + 1]
        pieces = self._pieces.take(np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)]))
        return batch_of_pieces(self._shards, pieces.start, pieces.size, ends - firsts, self.length, self.mixed)

    def epoch(self, position: int) -> float:
        """Return how many epochs lie before a position."""
        return position / self.rows_per_epoch

    def facts(self) -> dict[str, int]:
        """Return what an epoch reads and what it does not, as `llmx.data.rows.Rows` says."""
        positions = self.rows_per_epoch * self.length
        return {
            "documents": self.store.documents,
            "tokens": self.store.tokens,
            "rows": self.rows_per_epoch,
            "positions": positions,
            "padding": positions - int(self._pieces.size.sum(dtype=np.int64)),
            "lost_turns": self.store.lost_turns,
            **self._facts,
        }


class PackedRows(PieceRows):
    """Rows of whole documents, packed best-fit: what is in a row stays so, the order of the rows is each epoch's own.

    Args:
        store: the tokens of the documents.
        length: T.
        seed: of what is packed together, and of the order.
        split: "training" or "held-out", for messages.

    Raises:
        DataError: no label of any document counts.
    """

    mixed = True

    def __init__(self, store: TokenStore, length: int, seed: int, split: str = "training") -> None:
        pieces, facts = cut_documents(store, length, split)
        order, firsts = best_fit(pieces.size, length, shuffled(len(pieces), seed, "packing"))
        super().__init__(store, length, seed, pieces.take(order), firsts, facts)


class PaddedRows(PieceRows):
    """Rows of one document each, padded. The padding follows the document, which therefore never sees it.

    Args:
        store: the tokens of the documents.
        length: T.
        seed: of the order.
        split: "training" or "held-out", for messages.

    Raises:
        DataError: no label of any document counts.
    """

    mixed = False

    def __init__(self, store: TokenStore, length: int, seed: int, split: str = "training") -> None:
        pieces, facts = cut_documents(store, length, split)
        super().__init__(store, length, seed, pieces, np.arange(len(pieces) + 1), facts)


class PairRows(PieceRows):
    """Rows of whole preference pairs, packed best-fit or one to a row; pair k of a row is its documents 2k and 2k + 1.

    Args:
        store: the tokens of the pairs.
        length: T.
        seed: of what is packed together, and of the order.
        packed: several to a row where they fit.
        split: "training" or "held-out", for messages.

    Raises:
        DataError: no pair fits a row.
    """

    mixed = True

    def __init__(self, store: TokenStore, length: int, seed: int, packed: bool, split: str = "training") -> None:
        pieces, facts = whole_pairs(store, length, split)
        order, firsts = np.arange(len(pieces) // 2), np.arange(len(pieces) // 2 + 1)
        if packed:
            sizes = pieces.size[0::2] + pieces.size[1::2]
            order, firsts = best_fit(sizes, length, shuffled(len(sizes), seed, "packing"))
        both = (2 * order[:, None] + np.arange(2)).ravel()
        super().__init__(store, length, seed, pieces.take(both), 2 * firsts, facts)


def best_fit(
    sizes: NDArray[np.int32], length: int, shuffle: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pack pieces into rows by best-fit decreasing (Johnson 1973; for documents, Ding et al. 2024).

    From the largest on, each piece goes into the row with the least room that holds it, or into a new one. Pieces of
    one size are dealt together, and rows of equal room are alike, so the work grows with the sizes there are and not
    with the pieces.

    Args:
        sizes: of each piece, 1 to length.
        length: room of a row.
        shuffle: a permutation of the pieces, which decides among those of one size.

    Returns:
        The pieces, row after row, and the number of the first piece of each row, with that of all pieces at the end.
    """
    key = (length - sizes[shuffle]).astype(np.uint16 if length <= 2**16 else np.int64)  # of 16 bits: sorted by radix
    order = shuffle[np.argsort(key, kind="stable")]
    found, counts = np.unique(sizes, return_counts=True)
    rows, made = np.empty(len(sizes), np.int32), 0
    room_left = _Room()
    at = 0
    for size, count in zip(found[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = at + count
        while at < end:
            room, among = room_left.least(size)
            each = (room or length) // size
            needed = -(-(end - at) // each)
            if room is None:
                room, among = length, np.arange(made, made + needed, dtype=np.int32)
                made += needed
            dealt = min(end - at, each * len(among))
            rows[at : at + dealt] = np.repeat(among[:needed], each)[:dealt]
            full, rest = divmod(dealt, each)
            room_left.add(room - each * size, among[:full])
            room_left.add(room - rest * size, among[full : full + 1] if rest else among[:0])
            room_left.add(room, among[needed:])
            at += dealt
    order = order[np.argsort(rows, kind="stable")]
    return order, np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=made))])


class _Room:
    """Rows by the room they have left."""

    def __init__(self) -> None:
        self._rows: dict[int, list[NDArray[np.int32]]] = {}
        self._rooms: list[int] = []

    def add(self, room: int, rows: NDArray[np.int32]) -> None:
        if room == 0 or not len(rows):
            return
        if room not in self._rows:
            bisect.insort(self._rooms, room)
            self._rows[room] = []
        self._rows[room].append(rows)

    def least(self, size: int) -> tuple[int | None, NDArray[np.int32]]:
        """Take some rows out of those with the least room that is enough; None where there are none."""
        at = bisect.bisect_left(self._rooms, size)
        if at == len(self._rooms):
            return None, np.empty(0, np.int32)
        room = self._rooms[at]
        rows = self._rows[room].pop()
        if not self._rows[room]:
            del self._rows[room], self._rooms[at]
        return room, rows
