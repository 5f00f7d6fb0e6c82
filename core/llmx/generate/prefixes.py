"""Keys and values of beginnings that were seen before, for prompts that begin alike.

Only whole chunks are kept, counted from the first token: a prompt that takes them over has the very numbers it would
have computed, so that its answer is the same with and without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from llmx.nn.cache import KVCache
from llmx.protocols import Cache

CHUNK = 128
"""Tokens of a prompt that are computed at once: enough for products to be fast, few enough that others wait little."""


@frozen
class Beginning:
    """The first tokens of a sequence, in whole chunks, with the cache that holds them and perhaps more."""

    model: str
    ids: tuple[int, ...]
    cache: KVCache


def beginning_of(model: str, ids: Sequence[int], computed: int, cache: Cache) -> Beginning | None:
    """Return what others may take over of a prompt of which the first `computed` tokens are in the cache."""
    whole = computed // CHUNK * CHUNK
    if whole == 0 or not isinstance(cache, KVCache):
        return None
    return Beginning(model, tuple(ids[:whole]), cache)


class PrefixStore:
    """Beginnings of prompts that were answered, those used last; older ones are let go above `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: list[Beginning] = []

    def nbytes(self) -> int:
        return sum(each.cache.nbytes() for each in self._kept)

    def add(self, beginning: Beginning) -> None:
        """Keep a beginning, unless it alone is too large; one that it begins with is let go."""
        if beginning.cache.nbytes() > self.most_bytes:
            return
        self._kept = [each for each in self._kept if not _covers(beginning, each)]
        self._kept.append(beginning)
        while self._kept and self.nbytes() > self.most_bytes:
            self._kept.pop(0)

    def best(self, model: str, ids: Sequence[int], others: Iterable[Beginning]) -> tuple[int, KVCache | None]:
        """Return how many of a prompt's first tokens are held, in whole chunks, and the cache that holds them.

        One token at least is left to be computed.

        Args:
            others: beginnings of prompts that are being answered.
        """
        found, cache = 0, None
        for each in (*self._kept, *others):
            if each.model == model and (common := _common(each.ids, ids)) > found:
                found, cache = common, each.cache
        return found, cache


def _covers(longer: Beginning, each: Beginning) -> bool:
    return each.model == longer.model and longer.ids[: len(each.ids)] == each.ids


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    most = min(len(held), (len(ids) - 1) // CHUNK * CHUNK)
    for start in range(0, most, CHUNK):
        if tuple(held[start : start + CHUNK]) != tuple(ids[start : start + CHUNK]):
            return start
    return most
