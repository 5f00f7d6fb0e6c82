"""What of each document is read: documents as pieces that fit into a row, and what is cut, truncated or left out.

A piece of n positions is n + 1 tokens: n inputs, and the token after each as its label. `T` positions make a row.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from llmx.data.shards import Shard, Shards
from llmx.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmx.data.store import TokenStore


@frozen(eq=False)
class Pieces:
    """Pieces of documents, 12 bytes each.

    Attributes:
        start: place of the first token of each in the store.
        size: positions it fills, 1 to T.
    """

    start: NDArray[np.int64]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.size)

    def take(self, order: NDArray[Any]) -> Pieces:
        """Return the pieces with these numbers."""
        return Pieces(self.start[order], self.size[order])


def cut_documents(store: TokenStore, length: int, split: str) -> tuple[Pieces, dict[str, int]]:
    """Return the pieces of all documents in their order, and what became of the documents.

    A text longer than a row goes on in further pieces, and every token of it is read. A chat, a document of which some
    token is not trained on, ends with the row: without its beginning the rest would answer nothing. A document none of
    whose labels count is left out.

    Args:
        length: T.
        split: "training" or "held-out", for the message.

    Raises:
        DataError: nothing is left.
    """
    found: list[Pieces] = []
    facts: Counter[str] = Counter()
    for shard in Shards(store):  # one at a time, that what is made on the way stays small
        pieces, counts = _cut_shard(shard, length)
        found.append(pieces)
        facts.update(counts)
    if not sum(map(len, found)):
        raise nothing_left(store, length, split)
    return Pieces(*(np.concatenate([getattr(each, name) for each in found]) for name in ("start", "size"))), dict(facts)


def whole_pairs(store: TokenStore, length: int, split: str) -> tuple[Pieces, dict[str, int]]:
    """Return the two pieces of every preference pair that fits a row, and what became of the documents.

    A pair that is longer than a row, or of which one side has no label that counts, is left out whole: of half an
    answer nothing can be said. So is what was no pair.

    Args:
        length: T.
        split: "training" or "held-out", for the message.

    Raises:
        DataError: nothing is left.
    """
    found: list[Pieces] = []
    left_out = left_out_tokens = 0
    for shard in Shards(store):
        begins, lengths = shard.offsets[:-1], np.diff(shard.offsets)
        _, labels = _count_trained(shard, length)
        fits = (lengths - 1).reshape(-1, 2).sum(1) <= length
        kept = np.repeat(fits & (labels.reshape(-1, 2) > 0).all(1), 2)
        found.append(Pieces(shard.first_token + begins[kept].astype(np.int64), (lengths[kept] - 1).astype(np.int32)))
        left_out += int((~kept).sum())
        left_out_tokens += int(lengths[~kept].sum())
    if not sum(map(len, found)):
        raise no_pair_left(store, length, split)
    facts = {"left_out_documents": left_out, "left_out_tokens": left_out_tokens}
    return Pieces(*(np.concatenate([getattr(each, name) for each in found]) for name in ("start", "size"))), facts


def _cut_shard(shard: Shard, length: int) -> tuple[Pieces, dict[str, int]]:
    begins, lengths = shard.offsets[:-1], np.diff(shard.offsets)
    slots = np.maximum(lengths - 1, 0)
    trained, labels = _count_trained(shard, length)
    text = trained == lengths
    pieces = np.where(text, -(-slots // length), labels > 0)
    document = np.repeat(np.arange(len(lengths)), pieces)
    within = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    size = np.minimum(length, slots[document] - within).astype(np.int32)
    longer = slots > length
    truncated = longer & ~text & (pieces > 0)
    return Pieces(shard.first_token + begins[document] + within, size), {
        "cut_documents": int((longer & text).sum()),
        "truncated_documents": int(truncated.sum()),
        "truncated_tokens": int((slots[truncated] - length).sum()),
        "left_out_documents": int((pieces == 0).sum()),
        "left_out_tokens": int(lengths[pieces == 0].sum()),
    }


def _count_trained(shard: Shard, length: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return for each document how many tokens are trained on, and how many labels of its first T positions count."""
    begins, ends = shard.offsets[:-1], shard.offsets[1:]
    until, after_first = np.minimum(ends, begins + length + 1), np.minimum(ends, begins + 1)
    if shard.trained is None:
        return ends - begins, until - after_first
    before = np.concatenate([[0], shard.trained]).cumsum(dtype=np.int32)  # trained tokens before each place
    return before[ends] - before[begins], before[until] - before[after_first]


def no_pair_left(store: TokenStore, length: int, split: str) -> DataError:
    """Return the error that says why there is no preference pair."""
    if not store.documents:
        return DataError(f"data: there is no {split} document")
    every = f"data: all {store.documents // 2} {split} documents"
    if not store.predicted:
        return DataError(
            f"{every}: none is a preference pair, an answer with one that is worse (fields chosen and rejected), of "
            "which a turn is trained on; give pairs, or name another objective"
        )
    return DataError(
        f"{every}: no preference pair fits in {length} tokens with both of its sides; set data.sequence_length to more"
    )


def nothing_left(store: TokenStore, length: int, split: str) -> DataError:
    """Return the error that says why no label of any document counts."""
    if not store.documents:
        return DataError(f"data: there is no {split} document")
    every = f"data: all {store.documents} {split} documents"
    if not store.masked:
        return DataError(f"{every}: none has two tokens, so that there is one to predict; give longer texts")
    if not store.predicted:
        return DataError(f"{every}: no turn is trained on; compare data.loss_on with the roles of the messages")
    return DataError(f"{every}: no turn that is trained on fits in {length} tokens; set data.sequence_length to more")
