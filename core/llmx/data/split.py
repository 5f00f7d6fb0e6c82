"""Which documents are trained on and which are held out."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from attrs import evolve, frozen

from llmx.protocols import Document

SplitName: TypeAlias = Literal["train", "val"]


@frozen
class Split:
    """Deals documents into "train" and "val", a pure function of the documents.

    Whole documents are held out by the hash of their content, so that equal documents share a split and a document
    keeps its split when others come or go. A corpus of fewer than `1 / held_out` documents has none to spare: there
    the end of each text is held out, and of two or more chats the one with the smallest hash. Only while a corpus is
    that small, or has by chance no document whose hash is in the share, do others decide with it.

    Args:
        held_out: share of the documents, or of each text, for "val"; 0 for none.
    """

    held_out: float

    def __call__(self, documents: Iterable[Document]) -> Iterator[tuple[SplitName, Document]]:
        if not self.held_out:
            yield from (("train", document) for document in documents)
            return
        stream = iter(documents)
        first, smallest = self._first(stream)
        if len(first) < 1 / self.held_out:
            yield from self._few(first)
            return
        # a small corpus may by chance hash nothing into the share: then its smallest hash is held out
        bound = max(self.held_out, smallest)
        for document in itertools.chain(first, stream):
            yield ("val" if fraction(document) <= bound else "train"), document

    def _first(self, stream: Iterator[Document]) -> tuple[list[Document], float]:
        """Take documents until it is known whether they are few and whether one is in the share."""
        taken: list[Document] = []
        smallest = 1.0
        for document in itertools.islice(stream, math.ceil(10 / self.held_out)):
            taken.append(document)
            smallest = min(smallest, fraction(document))
            if len(taken) >= 1 / self.held_out and smallest <= self.held_out:
                break
        return taken, smallest

    def _few(self, documents: list[Document]) -> Iterator[tuple[SplitName, Document]]:
        chats = [fraction(document) for document in documents if document.messages]
        # chats that are all alike are one chat, which is trained on
        bound = min(chats) if len(set(chats)) > 1 else -1.0
        for document in documents:
            if document.messages:
                yield ("val" if fraction(document) <= bound else "train"), document
            else:
                cut = cut_point(document.text, 1 - self.held_out)
                yield "train", evolve(document, text=document.text[:cut])
                yield "val", evolve(document, text=document.text[cut:])


def fraction(document: Document) -> float:
    """Return a number in [0, 1) that the content alone decides, evenly spread over documents.

    The content is the text, or what the messages say: which of them are trained on is not part of it, nor are the
    tools, nor the turns that a preference pair rejects.
    """
    text = document.text
    if document.messages:
        turns = [[each.role, each.content, each.reasoning, *map(dict, each.tool_calls)] for each in document.messages]
        text = json.dumps(turns, sort_keys=True, default=dict)
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
