"""Rows whose order is a pure function of (seed, epoch, position): resume is a number, not a state.

`T` positions make a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from llmx.data.packing import PackedRows, PaddedRows, PairRows
from llmx.data.stream import StreamRows
from llmx.errors import DataError
from llmx.protocols import Batch

if TYPE_CHECKING:
    from llmx.data.store import TokenStore

Packing: TypeAlias = Literal["auto", "stream", "best-fit", "none"]


class Rows(Protocol):
    """An endless sequence of rows, the same for any number of ranks and readers: each asks for the rows it needs.

    Every row has a label that counts. Nothing is changed by reading, so that threads may share it.
    """

    length: int
    """T."""
    rows_per_epoch: int
    """Rows after which all has been read once."""
    tokens: int
    """Tokens of the documents, whether they are read or not."""
    mixed: bool
    """Whether a row may hold more than one document; then batches tell them apart."""

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows [position, position + rows) of the sequence."""
        ...

    def epoch(self, position: int) -> float:
        """Return how many epochs lie before a position."""
        ...

    def facts(self) -> dict[str, int]:
        """Return what an epoch reads and what it does not; a count that is left out is 0.

        `documents` and `tokens` of the store; `rows` of an epoch, their `positions`, and how many of these are
        `padding`; `cut_documents`, which go on in another row; `truncated_documents` and the `truncated_tokens` of
        them that are never read; `lost_turns`, which the template does not let be trained on; and what is not read for
        no label of it counts, `left_out_documents` with `left_out_tokens`, or `left_out_rows` of a stream.
        """
        ...


def rows_of(store: TokenStore, packing: Packing, length: int, seed: int) -> Rows:
    """Return the training rows of a store; "auto" streams texts and packs chats and preference pairs.

    Raises:
        DataError: there are none, or preference pairs are to be streamed.
    """
    if store.pairs:
        return _pair_rows(store, packing, length, seed, "training")
    if packing == "stream" or (packing == "auto" and not store.masked):
        return StreamRows(store, length, seed)
    return (PaddedRows if packing == "none" else PackedRows)(store, length, seed)


class HeldOut:
    """The held-out rows of one or more stores, the same ones in the same order each time.

    Args:
        stores: one for each source; one that has no label to predict gives no rows.
        packing: as the training rows are made.
        length: T.

    Attributes:
        tokens: of all stores.
        predicted: labels of all stores.
        text_bytes: bytes of their texts.
        rows: of all stores.

    Raises:
        DataError: no label of any store counts.
    """

    def __init__(self, stores: Sequence[TokenStore], packing: Packing, length: int) -> None:
        self.length = length
        self.tokens = sum(store.tokens for store in stores)
        self.predicted = sum(store.predicted for store in stores)
        self.text_bytes = sum(store.text_bytes for store in stores)
        self._parts: list[Rows] = []
        reasons: list[str] = []
        self._unread: list[TokenStore] = []
        for store in stores:
            try:
                self._parts.append(_in_order(store, packing, length))
            except DataError as error:
                reasons.append(str(error))
                self._unread.append(store)
        if not self._parts:
            why = "; ".join(dict.fromkeys(reason.removeprefix("data: ") for reason in reasons))
            raise DataError(f"data: nothing held out can be measured: {why}; or set data.held_out=0")
        self.rows = sum(part.rows_per_epoch for part in self._parts)

    def batches(self, rows: int, most_tokens: int | None) -> Iterator[Batch]:
        """Yield batches of `rows` rows, of each store its share; None: all, else about `most_tokens` positions."""
        wanted = self.rows if most_tokens is None else min(self.rows, -(-most_tokens // self.length))
        for part in self._parts:
            end = -(-part.rows_per_epoch * wanted // self.rows)
            for first in range(0, end, rows):
                yield part.batch(first, min(rows, end - first))

    def facts(self) -> dict[str, int]:
        """Return the sums over all stores of what `Rows.facts` counts."""
        totals: Counter[str] = Counter()
        for part in self._parts:
            totals.update(part.facts())
        for store in self._unread:
            totals.update(documents=store.documents, left_out_documents=store.documents)
            totals.update(tokens=store.tokens, left_out_tokens=store.tokens)
        return dict(totals)


def _in_order(store: TokenStore, packing: Packing, length: int) -> Rows:
    """Return rows of which the first ones stand for all: a stream as it is, documents shuffled."""
    if store.pairs:
        return _pair_rows(store, packing, length, 0, "held-out")
    if packing == "stream" or (packing == "auto" and not store.masked):
        return StreamRows(store, length, None, "held-out")
    return (PaddedRows if packing == "none" else PackedRows)(store, length, 0, "held-out")


def _pair_rows(store: TokenStore, packing: Packing, length: int, seed: int, split: str) -> Rows:
    if packing == "stream":
        raise DataError('data.packing = "stream": cuts documents, and a preference pair stays whole; use "best-fit"')
    return PairRows(store, length, seed, packing != "none", split)
