"""Runs of tokens to batches: what each position predicts, and which positions it sees.

Shapes: `B` rows, `T` positions of a row, `S` = T + 1 tokens that give a row its inputs and its labels.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmx.protocols import IGNORE, Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmx.data.shards import Shards


def batch_of_windows(
    shards: Shards, windows_B: NDArray[np.int64], length: int, starts: NDArray[np.int64] | None, tokens: int
) -> Batch:
    """Make a batch of windows of T + 1 tokens, one a row, over as many documents as lie there.

    Args:
        windows_B: place of the first token of each; one that reaches over the end of the store is padded.
        length: T.
        starts: where each document begins; None: there is one, and the batch does not tell documents apart.
        tokens: of the store.
    """
    sizes_B = np.minimum(length + 1, tokens - windows_B)
    flat, trained = shards.read(windows_B, sizes_B)
    there_BS = np.arange(length + 1) < sizes_B[:, None]
    ids_BS = np.zeros(there_BS.shape, np.int64)
    ids_BS[there_BS] = flat
    counted_BS = there_BS
    if trained is not None:
        counted_BS = there_BS.copy()
        counted_BS[there_BS] = trained
    if starts is None:
        labels_BT = np.where(counted_BS[:, 1:], ids_BS[:, 1:], IGNORE)
        return _batch(ids_BS[:, :-1], labels_BT)
    begins_BS = _beginnings(starts, windows_B, length + 1)
    # the next token is no label where another document begins
    labels_BT = np.where(counted_BS[:, 1:] & ~begins_BS[:, 1:], ids_BS[:, 1:], IGNORE)
    documents_BT = np.where(there_BS, begins_BS.cumsum(axis=1, dtype=np.int32), np.int32(-1))[:, :-1]
    place_T = np.arange(length)
    positions_BT = place_T - np.maximum.accumulate(np.where(begins_BS[:, :-1], place_T, 0), axis=1)
    return _batch(ids_BS[:, :-1], labels_BT, documents_BT, positions_BT)


def _beginnings(starts: NDArray[np.int64], windows_B: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Return where in each window a document begins, the one at its first token aside."""
    first_B = np.searchsorted(starts, windows_B, side="right")
    end_B = np.searchsorted(starts, windows_B + size)
    within_B = end_B - first_B
    rows = np.repeat(np.arange(len(windows_B)), within_B)
    documents = np.arange(len(rows)) + np.repeat(first_B - (within_B.cumsum() - within_B), within_B)
    begins_BS = np.zeros((len(windows_B), size), np.bool_)
    begins_BS[rows, starts[documents] - windows_B[rows]] = True
    return begins_BS


def batch_of_pieces(
    shards: Shards, starts: NDArray[np.int64], sizes: NDArray[Any], pieces_B: NDArray[Any], length: int, mixed: bool
) -> Batch:
    """Make a batch of pieces of documents: the first `pieces_B[0]` in the first row, and so on, one after the other.

    A piece of n + 1 tokens fills n positions: its last token is a label alone, for nothing follows it.

    Args:
        starts: place of the first token of each piece.
        sizes: positions each fills.
        length: T.
        mixed: whether a row may hold more than one piece; if so the batch tells them apart.
    """
    flat, trained = shards.read(starts, sizes + 1)
    begins = np.cumsum(sizes) - sizes  # of each piece among the inputs of all
    within = np.arange(len(flat) - len(sizes)) - np.repeat(begins, sizes)  # place of each input in its piece
    token = np.arange(len(within)) + np.repeat(np.arange(len(sizes)), sizes)  # and among the tokens of all
    labels = flat[token + 1]
    if trained is not None:
        labels[~trained[token + 1]] = IGNORE
    row_of_piece = np.repeat(np.arange(len(pieces_B)), pieces_B)
    first_piece = (np.cumsum(pieces_B) - pieces_B)[row_of_piece]  # of the row that a piece is in
    place = within + np.repeat(row_of_piece * length + begins - begins[first_piece], sizes)

    def spread(values: NDArray[Any], padding: int) -> NDArray[Any]:
        found = np.full(len(pieces_B) * length, padding, values.dtype)
        found[place] = values
        return found.reshape(-1, length)

    if not mixed:
        return _batch(spread(flat[token], 0), spread(labels, IGNORE))
    number = np.repeat((np.arange(len(sizes)) - first_piece).astype(np.int32), sizes)
    return _batch(spread(flat[token], 0), spread(labels, IGNORE), spread(number, -1), spread(within, 0))


def _batch(
    ids_BT: NDArray[np.int64],
    labels_BT: NDArray[np.int64],
    documents_BT: NDArray[np.int32] | None = None,
    positions_BT: NDArray[np.int64] | None = None,
) -> Batch:
    ids, labels, documents, positions = (
        None if each is None else torch.from_numpy(np.ascontiguousarray(each))
        for each in (ids_BT, labels_BT, documents_BT, positions_BT)
    )
    assert ids is not None
    assert labels is not None
    return Batch(ids, labels, documents, positions, int(np.count_nonzero(labels_BT != IGNORE)))


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


def shuffled(count: int, seed: int, *names: object) -> NDArray[np.int64]:
    """Return the numbers below `count` in an order of chance that the seed and the names decide."""
    generator = torch.Generator().manual_seed(stream_seed(seed, *names))
    order: NDArray[np.int64] = torch.randperm(count, generator=generator).numpy()
    return order
