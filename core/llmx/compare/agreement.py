"""How alike answers are: equal ones, and the overlap of their character trigrams."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from attrs import frozen

SIZE = 3

FORMULA = (
    "Agreement: over all pairs of answers of one model to one question. Equal: the share of pairs that are the same "
    "text. Alike: 2·|A∩B| / (|A|+|B|) over the multisets A and B of character trigrams."
)


@frozen
class Agreement:
    """The share of pairs that are equal, and the mean similarity of pairs, each from 0 to 1."""

    equal: float
    alike: float


def similarity(one: str, other: str) -> float:
    """Return 2·|A∩B| / (|A|+|B|) over the multisets A and B of character trigrams (Dice 1945), 1 for equal texts.

    Texts shorter than three characters count as one gram each.
    """
    if one == other:
        return 1.0
    first, second = _grams(one), _grams(other)
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 0.0


def agreement(texts: Sequence[str]) -> Agreement | None:
    """Return how far answers to one question agree, over all pairs; None for fewer than two."""
    pairs = list(itertools.combinations(texts, 2))
    if not pairs:
        return None
    equal = sum(one == other for one, other in pairs) / len(pairs)
    return Agreement(equal, sum(similarity(*pair) for pair in pairs) / len(pairs))


def _grams(text: str) -> Counter[str]:
    if len(text) < SIZE:
        return Counter([text] if text else [])
    return Counter(text[at : at + SIZE] for at in range(len(text) - SIZE + 1))
