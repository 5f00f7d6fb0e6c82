"""Near duplicates: MinHash keys to find candidates, and the exact share of common shingles to judge them.

A. Broder, "On the resemblance and containment of documents", 1997; banding after Leskovec, Rajaraman, Ullman, "Mining
of Massive Datasets", chapter 3. The hashes depend on no library's version, for they are kept on disk to resume from.
"""

from __future__ import annotations

import math
import re
from zlib import crc32

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

BANDS = 16
"""Keys of a text; two texts are candidates when they have one in common."""

FOUND = 0.95
"""Share of the pairs just at the threshold that become candidates; of pairs above it more do."""

MOST_COMPARED = 1_000_000
"""Characters of a text that are compared, from its beginning: what is held for it is bounded."""

CHUNK = 4_096
"""Shingles hashed at a time: the products of more would not stay in the processor's cache."""

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean: each character is a unit."""

UNIT = re.compile(f"[{SPACELESS}]|[^\\W{SPACELESS}]+")


def units_of(text: str) -> list[str]:
    """Return the words of a text, and the single characters of scripts that set no spaces; no punctuation."""
    return UNIT.findall(text[:MOST_COMPARED].casefold())


def shingles_of(units: list[str], size: int) -> set[str]:
    """Return the runs of `size` units; a shorter text is one shingle, one without units has none."""
    return {" ".join(units[i : i + size]) for i in range(max(1, len(units) - size + 1))} if units else set()


def jaccard(one: set[str], other: set[str]) -> float:
    """Return the share of shingles that two texts have in common."""
    return len(one & other) / (len(one | other) or 1)


def rows_for(threshold: float) -> int:
    """Return the hashes of a key: as many as still find pairs at the threshold, for more means fewer candidates."""
    least = 1 - (1 - FOUND) ** (1 / BANDS)
    return max(1, min(16, int(math.log(least) / math.log(threshold)))) if threshold < 1 else 16


@frozen(eq=False)
class MinHash:
    """Makes the keys of a text.

    Args:
        threshold: share of common shingles from which two texts are near duplicates.
        size: units of a shingle.
    """

    threshold: float
    size: int
    rows: int = field(init=False)
    _factors: Keys = field(init=False)
    _terms: Keys = field(init=False)

    def __attrs_post_init__(self) -> None:
        rows = rows_for(self.threshold)
        # multiply and add modulo 2^64, of which the upper half is kept: a universal family (Dietzfelbinger, 1996)
        draws = np.random.Generator(np.random.PCG64(20_250_101)).integers(
            2**64, size=(2, BANDS * rows), dtype=np.uint64
        )
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "_factors", draws[0] | np.uint64(1))
        object.__setattr__(self, "_terms", draws[1])

    def keys(self, units: list[str]) -> Keys:
        """Return `BANDS` keys, none of them 0; zeros for a text without units."""
        if not units:
            return np.zeros(BANDS, np.uint64)
        hashes = _hashes(units, self.size)
        least = np.full(len(self._factors), 2**32 - 1, np.uint64)
        for start in range(0, len(hashes), CHUNK):
            products = hashes[start : start + CHUNK, None] * self._factors + self._terms
            np.minimum(least, (products >> np.uint64(32)).min(axis=0), out=least)
        bands = least.reshape(BANDS, self.rows)
        keys = np.arange(1, BANDS + 1, dtype=np.uint64)
        for row in range(self.rows):
            keys = _mixed(keys ^ (bands[:, row] * np.uint64(0x9E3779B97F4A7C15)))
        return np.maximum(keys, np.uint64(1))


def _hashes(units: list[str], size: int) -> Keys:
    """Return a hash of each run of `size` units."""
    each = np.fromiter((crc32(unit.encode("utf-8", "surrogatepass")) for unit in units), np.uint64, len(units))
    size = min(size, len(units))
    count = len(units) - size + 1
    found = _mixed(each[:count])
    for place in range(1, size):
        found = _mixed(found + each[place : place + count])
    return found


def _mixed(values: Keys) -> Keys:
    """Return values whose every bit depends on every bit (the finish of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))
