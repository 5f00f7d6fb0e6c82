"""Which scripts a text is written in, roughly: by the blocks of Unicode its letters stand in."""

from __future__ import annotations

import numpy as np

NAMES = (
    "Latin",
    "Chinese",
    "Kana",
    "Hangul",
    "Cyrillic",
    "Greek",
    "Arabic",
    "Hebrew",
    "Indic",
    "Thai",
    "digits",
    "other",
)

BLOCKS = (
    (0x30, 0x3A, "digits"),
    (0x41, 0x5B, "Latin"),
    (0x61, 0x7B, "Latin"),
    (0xC0, 0x250, "Latin"),
    (0x370, 0x3E2, "Greek"),
    (0x3F0, 0x400, "Greek"),
    (0x400, 0x530, "Cyrillic"),
    (0x590, 0x600, "Hebrew"),
    (0x600, 0x700, "Arabic"),
    (0x750, 0x780, "Arabic"),
    (0x900, 0xE00, "Indic"),
    (0xE00, 0xE80, "Thai"),
    (0x1E00, 0x1F00, "Latin"),
    (0x3040, 0x3100, "Kana"),
    (0x3400, 0xA000, "Chinese"),
    (0xAC00, 0xD7B0, "Hangul"),
    (0xF900, 0xFB00, "Chinese"),
    (0xFF10, 0xFF1A, "digits"),
    (0xFF21, 0xFF3B, "Latin"),
    (0xFF41, 0xFF5B, "Latin"),
    (0xFF66, 0xFFA0, "Kana"),
    (0x20000, 0x32000, "Chinese"),
)
"""First character, the one behind the last, script; all others are marks, blanks and rarer scripts."""


def _table() -> tuple[list[int], list[int]]:
    bounds, kinds = [0], [NAMES.index("other")]
    for first, behind, name in BLOCKS:
        bounds += [first, behind]
        kinds += [NAMES.index(name), NAMES.index("other")]
    return bounds, kinds


def count_scripts(text: str) -> dict[str, int]:
    """Return how many characters of a text are of each script; white space counts for none."""
    bounds, kinds = _table()
    letters = "".join(text.split())
    points = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32)
    found = np.array(kinds)[np.searchsorted(bounds, points, side="right") - 1]
    counts = np.bincount(found, minlength=len(NAMES))
    return {name: int(count) for name, count in zip(NAMES, counts, strict=True) if count}
