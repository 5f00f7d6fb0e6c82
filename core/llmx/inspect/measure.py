"""One pass over the documents of a source: characters, duplicates, scripts, and which ones are shown."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from llmx.data.documents import texts_of
from llmx.data.lengths import Lengths
from llmx.data.split import fraction
from llmx.inspect.scripts import count_scripts
from llmx.protocols import Document

LOOKED_AT = 2_000
"""Characters of a document, from its beginning, whose scripts are counted."""


class Measure:
    """Counts documents; 8 bytes are held of each, and those with the smallest hashes are kept to be shown.

    Args:
        samples: how many to keep.
    """

    def __init__(self, samples: int) -> None:
        self.documents: Counter[str] = Counter()
        self.chats = 0
        self.characters = Lengths()
        self.scripts: Counter[str] = Counter()
        self._hashes = array("d")
        self._samples = samples
        self._kept: list[tuple[float, int, Document]] = []

    def add(self, split: str, document: Document) -> None:
        """Count a document."""
        text = "\n".join(texts_of(document))
        place = fraction(document)
        self.documents[split] += 1
        self.chats += bool(document.messages)
        self.characters.add(len(text))
        self.scripts.update(count_scripts(text[:LOOKED_AT]))
        self._hashes.append(place)
        if split == "train":
            self._keep(place, document)

    def _keep(self, place: float, document: Document) -> None:
        # by another hash than that of the split, or the samples would be the ones next to the held-out documents
        other = int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest(), "big") / 2**64
        if any(other == -kept for kept, *_ in self._kept):
            return
        entry = (-other, len(self._hashes), document)
        if len(self._kept) < self._samples:
            heapq.heappush(self._kept, entry)
        elif self._kept:
            heapq.heappushpop(self._kept, entry)

    def samples(self) -> list[Document]:
        """Return the documents to show, in the order of the corpus."""
        return [document for _, _, document in sorted(self._kept, key=lambda entry: entry[1])]

    def duplicates(self) -> int:
        """Return how many documents have the content of an earlier one."""
        hashes = np.frombuffer(self._hashes, np.float64)
        return len(hashes) - len(np.unique(hashes))


def count_all(documents: Iterable[tuple[str, Document]], samples: int) -> Measure:
    """Return the counts of the documents of a source."""
    measure = Measure(samples)
    for split, document in documents:
        measure.add(split, document)
    return measure
