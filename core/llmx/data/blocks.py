"""Documents in blocks of bounded size, and the tokens of a block: what goes to an encoder and comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen

from llmx.data.split import Split, SplitName
from llmx.protocols import Dataset, Document

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmx.data.encode import Encoded, Encoder

BLOCK_CHARS = 1 << 19
"""Text encoded at once: about a tenth of a second of work, so that sending it costs little beside it."""
BLOCK_DOCUMENTS = 10_000


@define
class Block:
    """Neighbouring documents of a corpus.

    Attributes:
        splits: of each document.
        ends: for each document, how many the split had dealt with it; blank ones are dealt too, but not here.
        chars: characters of all of them.
    """

    documents: list[Document] = field(factory=list)
    splits: list[SplitName] = field(factory=list)
    ends: list[int] = field(factory=list)
    chars: int = 0

    def extend(self, other: Block) -> None:
        """Take the documents that follow."""
        self.documents += other.documents
        self.splits += other.splits
        self.ends += other.ends
        self.chars += other.chars


@frozen
class Reader:
    """The blocks of a corpus in its order.

    Args:
        skip: documents dealt by the split that are done already.
    """

    dataset: Dataset
    split: Split
    skip: int = 0

    def __iter__(self) -> Iterator[Block]:
        block = Block()
        for number, (name, document) in enumerate(self.split(self.dataset), 1):
            if number <= self.skip or not (document.messages or document.text.strip()):
                continue
            block.documents.append(document)
            block.splits.append(name)
            block.ends.append(number)
            block.chars += chars_of(document)
            if block.chars >= BLOCK_CHARS or len(block.documents) >= BLOCK_DOCUMENTS:
                yield block
                block = Block()
        if block.documents:
            yield block


def chars_of(document: Document) -> int:
    """Return the characters of a document's text or turns, those that a preference pair rejects too."""
    turns = (*document.messages, *document.rejected)
    return len(document.text) + sum(len(turn.content) + len(turn.reasoning) for turn in turns)


@frozen(eq=False)
class Tokens:
    """The tokens of the documents of a block, one after the other.

    Attributes:
        ids: int32.
        lengths: tokens of each document, int64.
        trained: 1 for each token that is trained on, uint8; None where no document has a mask.
        masked: whether each document has a mask.
        text_bytes: of each document.
        lost_turns: of each document, turns that were to be trained on and cannot be.
        boundaries: of each document, where the rejected one of a preference pair begins, or 0.
    """

    ids: NDArray[Any]
    lengths: NDArray[Any]
    trained: NDArray[Any] | None
    masked: Sequence[bool]
    text_bytes: Sequence[int]
    lost_turns: Sequence[int]
    boundaries: Sequence[int]

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> Tokens:
        """Join what an encoder made of the documents of a block."""
        masked = [each.trained is not None for each in encoded]
        marks = [np.ones(len(e.ids), np.uint8) if e.trained is None else e.trained.view(np.uint8) for e in encoded]
        return cls(
            np.concatenate([each.ids for each in encoded]),
            np.array([len(each.ids) for each in encoded]),
            np.concatenate(marks) if any(masked) else None,
            masked,
            [each.text_bytes for each in encoded],
            [each.lost_turns for each in encoded],
            [each.boundary for each in encoded],
        )

    def __iter__(self) -> Iterator[tuple[NDArray[Any], int, NDArray[Any] | None, int, int]]:
        """Yield ids, bytes of text, trained tokens, lost turns and boundary of each document."""
        ends = np.cumsum(self.lengths)
        counts = (self.masked, self.text_bytes, self.lost_turns, self.boundaries)
        for start, end, masked, size, lost, boundary in zip(ends - self.lengths, ends, *counts, strict=True):
            marks = self.trained[start:end] if masked and self.trained is not None else None
            yield self.ids[start:end], size, marks, lost, boundary


def encode_block(encoder: Encoder, block: Block) -> Tokens:
    """Return the tokens of a block's documents."""
    return Tokens.of(encoder(block.documents))
