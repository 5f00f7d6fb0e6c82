"""Which text is trained on and which is held out."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from attrs import frozen

from llmx.protocols import Document

SplitName: TypeAlias = Literal["train", "val"]


@frozen
class Split:
    """Deals documents into "train" and "val", a pure function of the documents.

    Whole documents are held out by the hash of their text, so that equal documents share a split and a document
    keeps its split when others come or go. A corpus of fewer than `1 / held_out` documents has none to spare: there
    the end of every document is held out.

    Args:
        held_out: share of the documents, or of each document, for "val"; 0 for none.
    """

    held_out: float

    def __call__(self, documents: Iterable[Document]) -> Iterator[tuple[SplitName, str]]:
        if not self.held_out:
            yield from (("train", document.text) for document in documents)
            return
        stream = iter(documents)
        first = list(itertools.islice(stream, math.ceil(10 / self.held_out)))
        if len(first) < 1 / self.held_out:
            for document in first:
                cut = cut_point(document.text, 1 - self.held_out)
                yield "train", document.text[:cut]
                yield "val", document.text[cut:]
            return
        # a small corpus may by chance hash nothing into the share: then its smallest hash is held out
        bound = max(self.held_out, min(text_fraction(document.text) for document in first))
        for document in itertools.chain(first, stream):
            yield ("val" if text_fraction(document.text) <= bound else "train"), document.text


def text_fraction(text: str) -> float:
    """Return a number in [0, 1) that the text alone decides, evenly spread over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def cut_point(text: str, share: float) -> int:
    """Return the index nearest after `share` of the text where a line ends, or a word, or else that index itself."""
    at = int(len(text) * share)
    most = (len(text) - at) // 2  # half of the rest stays, even where lines are long
    for end, reach in (("\n", 2000), (" ", 100)):
        found = text.find(end, at, at + min(reach, most))
        if found >= 0:
            return found + 1
    return at
