"""Which documents are trained on and which are held out."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import evolve, frozen

from llmx.protocols import Document

SplitName: TypeAlias = Literal["train", "val"]
Deal: TypeAlias = Literal["train", "val", "cut"]

HELD_CHARS = 64 << 20
"""Documents are looked at before the first is dealt, and held until then; more than this is never held."""


@frozen
class Head:
    """The first documents of a source.

    Attributes:
        chats: for the hash of each, whether it is a chat.
        few: whether they are fewer, copies aside, than one of which could be held out.
    """

    chats: Mapping[float, bool]
    few: bool


@frozen
class Split:
    """Deals documents into "train" and "val".

    Whole documents are held out by the hash of their content, so that equal documents share a split and a document
    keeps its split when others come or go. Exceptions are made by the first documents of a source, of which as many
    are looked at as show `1 / held_out` different ones, some of them to be held out and some to be trained on:

    - Where they are fewer, since the source is small or says the same again and again, or since they have more than
      `HELD_CHARS`, there is none to spare: the end of each text among them is held out. Chats are never cut.
    - Where no hash is in the share by chance, the document with the smallest one is held out, unless it is the only
      one.
    - Where all hashes are, the document with the largest one is trained on.

    Args:
        held_out: share of the documents, or of each text, for "val"; 0 for none.
        dealt: the exceptions by hash; None where they are made anew for what is dealt. `split_over` makes them for
            several sources at once, so that what one holds out no other trains on.
    """

    held_out: float
    dealt: Mapping[float, Deal] | None = None

    def __call__(self, documents: Iterable[Document]) -> Iterator[tuple[SplitName, Document]]:
        stream, first, dealt = iter(documents), deque[Document](), self.dealt
        if self.held_out and dealt is None:
            head, first = self.look(stream)
            dealt = self.exceptions([head])
        while first:  # they are let go of one by one
            yield from self._deal(first.popleft(), dealt or {})
        for document in stream:
            yield from self._deal(document, dealt or {})

    def _deal(self, document: Document, dealt: Mapping[float, Deal]) -> Iterator[tuple[SplitName, Document]]:
        if not self.held_out:
            yield "train", document
            return
        deal = self._deal_of(fraction(document), dealt)
        if deal != "cut":
            yield deal, document
            return
        at = cut_point(document.text, 1 - self.held_out)
        yield "train", evolve(document, text=document.text[:at])
        yield "val", evolve(document, text=document.text[at:])

    def look(self, stream: Iterator[Document]) -> tuple[Head, deque[Document]]:
        """Take documents until it is known how to deal them; what was taken is returned too."""
        least, chats, taken = 1 / self.held_out, dict[float, bool](), deque[Document]()
        chars, low, high = 0, 1.0, 0.0
        for document in stream:
            taken.append(document)
            place = fraction(document)
            chats[place] = bool(document.messages)
            chars, low, high = chars + len(repr(document)), min(low, place), max(high, place)
            if chars >= HELD_CHARS or len(taken) >= 10 * least:
                break
            if len(chats) >= least and low <= self.held_out < high:
                break
        return Head(chats, few=len(chats) < least), taken

    def exceptions(self, heads: Sequence[Head]) -> dict[float, Deal]:
        """Return what is dealt otherwise than by the share, by hash; the same for any order of the sources."""
        dealt: dict[float, Deal] = {}
        for head in heads:
            dealt |= {place: "cut" for place, chat in head.chats.items() if head.few and not chat}
        whole = [[place for place in head.chats if place not in dealt] for head in heads]
        lowest = [min(places) for places in whole if len(places) > 1]
        dealt |= {place: "val" for place in lowest if place > self.held_out}
        trained = [[place for place in head.chats if self._deal_of(place, dealt) != "val"] for head in heads]
        lost = [max(head.chats) for head, places in zip(heads, trained, strict=True) if head.chats and not places]
        return dealt | dict.fromkeys(lost, "train")

    def _deal_of(self, place: float, dealt: Mapping[float, Deal]) -> Deal:
        return dealt.get(place, "val" if place <= self.held_out else "train")


def split_over(held_out: float, sources: Iterable[Iterable[Document]]) -> Split:
    """Return a split for several sources: what one of them holds out, by an exception too, no other trains on."""
    alone, several = Split(held_out), list(sources)
    if not held_out or len(several) < 2:
        return alone
    return Split(held_out, alone.exceptions([alone.look(iter(each))[0] for each in several]))


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
