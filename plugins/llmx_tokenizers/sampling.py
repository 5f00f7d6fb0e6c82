"""A bounded sample of texts that are too many to learn from all of them."""

from __future__ import annotations

import random
from collections.abc import Iterable


def sample(parts: Iterable[str], most_bytes: int) -> list[str]:
    """Return parts of at most `most_bytes` in all, drawn evenly and alike each time, in their order."""
    draw = random.Random(0).random
    kept: list[tuple[float, str]] = []
    share, size = 1.0, 0
    for part in parts:
        number = draw()
        if number < share:
            kept.append((number, part))
            size += len(part.encode())
        while size > most_bytes and kept:
            share /= 2
            kept = [each for each in kept if each[0] < share]
            size = sum(len(part.encode()) for _, part in kept)
    return [part for _, part in kept]
