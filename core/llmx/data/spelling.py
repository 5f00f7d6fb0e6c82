"""Pieces of a chat to runs of text that a tokenizer encodes, cut where serving cuts and nowhere else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from attrs import define, field, frozen

from llmx.protocols import LOOKS_SPECIAL, Piece, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids: TypeAlias = NDArray[np.int32]

NEIGHBOURS = ("a", " a", "\na", "a\n", "1", "\u4e2d")
"""Texts that some tokenizers encode otherwise beside a special token than alone."""
MOST_CACHED = 4096
LONGEST_CACHED = 200
"""Markup is cached, which comes again and again; that of a template that mixes content into it is not."""


@frozen(eq=False)
class Span:
    """Tokens that come together.

    Attributes:
        source: the ids, or the number of the text that is to be encoded.
        trained: whether they are trained on.
        changes: where that changes within: the number of a text that the span begins with, and what holds after it.
        text_bytes: UTF-8 bytes of its text that is trained on.
    """

    source: int | Ids
    trained: bool
    text_bytes: int = 0
    changes: tuple[tuple[int, bool], ...] = ()

    def ids(self, many: Sequence[Ids]) -> Ids:
        """Return its ids, given those of all texts."""
        return many[self.source] if isinstance(self.source, int) else self.source

    def marks(self, many: Sequence[Ids]) -> NDArray[np.bool_]:
        """Return for each id whether it is trained on; a token that lies on a change belongs to what begins there."""
        ids = self.ids(many)
        marks = np.full(len(ids), self.trained)
        for number, trained in self.changes:
            marks[_common(many[number], ids) :] = trained
        return marks


def _common(first: Ids, second: Ids) -> int:
    """Return how many ids two sequences begin with in common."""
    length = min(len(first), len(second))
    unequal = np.flatnonzero(first[:length] != second[:length])
    return int(unequal[0]) if len(unequal) else length


@frozen
class Atom:
    """Text without special tokens, or one special token."""

    text: str
    special: int | None
    trained: bool
    content: bool


@define
class Run:
    """Neighbouring text that is encoded as one."""

    texts: list[str] = field(factory=list)
    flags: list[tuple[int, bool]] = field(factory=list)
    """Characters before a change, and what holds from there."""
    content: bool = False
    length: int = 0
    text_bytes: int = 0

    def add(self, atom: Atom) -> None:
        """Put text at the end."""
        if not self.flags or self.flags[-1][1] != atom.trained:
            self.flags.append((self.length, atom.trained))
        self.texts.append(atom.text)
        self.length += len(atom.text)
        self.content |= atom.content
        if atom.trained:
            self.text_bytes += len(atom.text.encode("utf-8", "surrogatepass"))


class Speller:
    """Turns pieces into spans.

    A special token of markup is its id; text between two of them is encoded whole, so that the ids are those of the
    rendered chat. Only where an assistant begins and ends to speak is a cut, since serving stops there: what it is fed
    is encoded before anyone knows how it goes on.
    """

    def __init__(self, tokenizer: Tokenizer, specials: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        known = sorted(specials, key=len, reverse=True)
        self._special = re.compile("|".join([*map(re.escape, known), LOOKS_SPECIAL]))
        self._split: dict[str, list[tuple[str, int | None]]] = {}
        self._encoded: dict[str, Ids] = {}
        self._apart = all(self._encodes_apart(special) for special in specials)

    def spans(
        self, pieces: Sequence[Piece], roles: Sequence[str], turns: Collection[int], texts: list[str]
    ) -> list[Span]:
        """Return the spans of a chat; what is to be encoded is added to `texts`.

        Args:
            roles: of the messages.
            turns: numbers of the messages that are trained on.
        """
        stretches = self._stretches(pieces, roles, turns)
        if self._apart:
            return [span for atoms in stretches for span in self._apart_spans(atoms, texts)]
        return list(self._together_spans(stretches, texts))

    def _stretches(self, pieces: Sequence[Piece], roles: Sequence[str], turns: Collection[int]) -> Iterator[list[Atom]]:
        """Yield what lies between cuts."""
        atoms: list[Atom] = []
        speaker: int | None = None
        for piece in pieces:
            speaks = (
                piece.turn if piece.trained and piece.turn is not None and roles[piece.turn] == "assistant" else None
            )
            if speaks != speaker and atoms:
                yield atoms
                atoms = []
            speaker = speaks
            trained = piece.trained and piece.turn in turns
            for text, special in self._parts(piece.text) if piece.markup else ((piece.text, None),):
                atoms.append(Atom(text, special, trained, not piece.markup))
        if atoms:
            yield atoms

    def _parts(self, markup: str) -> list[tuple[str, int | None]]:
        """Return markup as text and special tokens with their ids."""
        found = self._split.get(markup)
        if found is None:
            found, at = [], 0
            for match in self._special.finditer(markup):
                special = self._tokenizer.special_id(match[0])
                if special is not None:
                    found += [(markup[at : match.start()], None), (match[0], special)]
                    at = match.end()
            found.append((markup[at:], None))
            found = [part for part in found if part[0]]
            if len(markup) <= LONGEST_CACHED and len(self._split) < MOST_CACHED:
                self._split[markup] = found
        return found

    # --- special tokens leave their neighbours alone, as in nearly every tokenizer ------------------------------------

    def _encodes_apart(self, special: str) -> bool:
        """Return whether text beside a special token has the ids that it has alone."""
        tokenizer, id_ = self._tokenizer, self._tokenizer.special_id(special)
        alone = tokenizer.encode_batch(NEIGHBOURS)
        return all(
            tokenizer.encode_markup(special + text) == [id_, *ids]
            and tokenizer.encode_markup(text + special) == [*ids, id_]
            for text, ids in zip(NEIGHBOURS, alone, strict=True)
        )

    def _apart_spans(self, atoms: Sequence[Atom], texts: list[str]) -> Iterator[Span]:
        run = Run()
        for atom in atoms:
            if atom.special is None:
                run.add(atom)
                continue
            yield from self._run_spans(run, texts)
            run = Run()
            yield Span(np.array([atom.special], np.int32), atom.trained)
        yield from self._run_spans(run, texts)

    def _run_spans(self, run: Run, texts: list[str]) -> Iterator[Span]:
        text = "".join(run.texts)
        if not text:
            return
        (_, trained), *changes = run.flags
        if not (run.content or changes) and len(text) <= LONGEST_CACHED:
            yield Span(self._cached(text), trained, run.text_bytes)
            return
        texts.append(text)
        number = len(texts) - 1
        inner = []
        for length, flag in changes:
            texts.append(text[:length])
            inner.append((len(texts) - 1, flag))
        yield Span(number, trained, run.text_bytes, tuple(inner))

    def _cached(self, text: str) -> Ids:
        found = self._encoded.get(text)
        if found is None:
            found = np.array(self._tokenizer.encode(text), np.int32)
            if len(self._encoded) < MOST_CACHED:
                self._encoded[text] = found
        return found

    # --- those that do not: white space beside them goes, or a word after them begins no sentence ---------------------

    def _together_spans(self, stretches: Iterator[list[Atom]], texts: list[str]) -> Iterator[Span]:
        """Encode the whole as far as no token lies over a cut, and begin anew at a cut where one does.

        What comes before a cut never depends on what comes after it.
        """
        text, ids = "", np.empty(0, np.int32)
        for atoms in stretches:
            if any(atom.content and self._names_special(atom.text) for atom in atoms):
                yield from self._apart_spans(atoms, texts)
                text, ids = "", ids[:0]
                continue
            more = "".join(atom.text for atom in atoms)
            whole = np.array(self._tokenizer.encode_markup(text + more), np.int32)
            if _common(whole, ids) < len(ids):
                text, ids = "", ids[:0]
                whole = np.array(self._tokenizer.encode_markup(more), np.int32)
            yield from self._marked(atoms, text, whole, len(ids))
            text, ids = text + more, whole

    def _names_special(self, text: str) -> bool:
        return any(self._tokenizer.special_id(match[0]) is not None for match in self._special.finditer(text))

    def _marked(self, atoms: Sequence[Atom], text: str, whole: Ids, at: int) -> Iterator[Span]:
        """Yield the ids of a stretch, those that are trained on and those that are not apart.

        A change is found by encoding all that is before it: a stretch alone may begin with other tokens.

        Args:
            text: what is before the stretch.
            whole: the ids of both.
            at: where those of the stretch begin.
        """
        ahead = sum(len(atom.text) for atom in atoms)
        for trained, group in itertools.groupby(atoms, key=lambda atom: atom.trained):
            same = list(group)
            more = "".join(atom.text for atom in same)
            text, ahead = text + more, ahead - len(more)
            before = np.array(self._tokenizer.encode_markup(text), np.int32) if ahead else whole
            end = max(at, _common(before, whole))
            said = "".join(atom.text for atom in same if atom.special is None) if trained else ""
            yield Span(whole[at:end], trained, len(said.encode("utf-8", "surrogatepass")))
            at = end
