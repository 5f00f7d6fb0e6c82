"""Many texts at once through tiktoken, for byte-pair tokenizers whose ids it gives too, several times faster.

tiktoken joins the pair of neighbours whose union has the lowest rank, and takes a whole word that has a rank as it is.
That gives the ids of a list of merges where every union has one rank, ranks rise along the list, parts rank before
their union, and every union is reached from its own bytes: then each union has one way to come about, and both go it.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int32]

BREAK = "\x1e\x1dllmx\x1d\x1e"
"""Stands between texts that are encoded as one; ASCII, so that a text of ASCII stays one byte a character."""
GROUP = 1 << 18
"""Characters that are encoded as one: enough to make the cost of a call small, few enough to share among threads."""
WORTH = 4_000_000
"""Characters after which a tokenizer looks for the fast way, which takes one to four seconds to set up."""


class Quick:
    """Ids of texts by tiktoken.

    Args:
        pattern: what splits a text into words; every character is in one.
        ranks: the bytes of each token and its rank.
        named: texts that are one token wherever they stand, and their ids.
        ids: the ids that each rank stands for; None where a rank is the id.
        normal: gives the texts in the form to encode them in, or None for one that only `slow` can encode.
        slow: encodes what tiktoken cannot: a text of a million spaces is too much for its regular expressions.
    """

    def __init__(
        self,
        pattern: str,
        ranks: Mapping[bytes, int],
        *,
        named: Mapping[str, int] | None = None,
        ids: Mapping[int, Sequence[int]] | None = None,
        normal: Callable[[str], str | None] | None = None,
        slow: Callable[[Sequence[str]], list[list[int]]],
    ) -> None:
        from tiktoken import Encoding

        named = named or {}
        self._break = max([*ranks.values(), *named.values()]) + 1
        special = {**named, BREAK: self._break}
        self._encoding = Encoding("llmx", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=special)
        self._allowed = set(special)
        self._spelling = None if ids is None else _Spelling({**ids, self._break: ()})
        self._normal = normal
        self._slow = slow

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, on as many threads as there are cores or `RAYON_NUM_THREADS` says."""
        groups = list(_groups(texts))
        if len(groups) <= 1 or (count := threads()) == 1:
            return [ids for group in groups for ids in self._group(group)]
        with ThreadPoolExecutor(min(count, len(groups))) as pool:
            return [ids for found in pool.map(self._group, groups) for ids in found]

    def _group(self, texts: Sequence[str]) -> list[Ids]:
        ready = texts if self._normal is None or BREAK.join(texts).isascii() else [self._normal(text) for text in texts]
        fit = [text for text in ready if text is not None]
        found = self._joined(fit) if len(fit) == len(texts) else None
        return [self._one(text, form) for text, form in zip(texts, ready, strict=True)] if found is None else found

    def _one(self, text: str, ready: str | None) -> Ids:
        found = None if ready is None else self._joined([ready])
        return np.array(self._slow([text])[0], dtype=np.int32) if found is None else found[0]

    def _joined(self, texts: Sequence[str]) -> list[Ids] | None:
        """Return the ids of each text, None if tiktoken cannot take one of them."""
        try:
            ids = self._encoding.encode_to_numpy(
                BREAK.join(texts), allowed_special=self._allowed, disallowed_special=()
            ).view(np.int32)
        except ValueError:  # of its regular expressions
            return None
        (cuts,) = np.nonzero(ids == self._break)
        if len(cuts) != len(texts) - 1:
            return None
        if self._spelling is not None:
            return self._spelling(ids, cuts)
        bounds = itertools.pairwise([-1, *cuts.tolist(), len(ids)])
        return [ids[begin + 1 : end] for begin, end in bounds]


class _Spelling:
    """The ids that ranks stand for: one, several, or none for what stands between texts."""

    def __init__(self, ids: Mapping[int, Sequence[int]]) -> None:
        self._begins, self._counts = np.zeros((2, max(ids) + 1), dtype=np.int64)
        for begin, (rank, each) in zip(
            itertools.accumulate(map(len, ids.values()), initial=0), ids.items(), strict=False
        ):
            self._begins[rank], self._counts[rank] = begin, len(each)
        self._ids = np.array([id_ for each in ids.values() for id_ in each], dtype=np.int32)

    def __call__(self, ranks: Ids, cuts: npt.NDArray[np.intp]) -> list[Ids]:
        """Return the ids of the texts that `cuts` stand between."""
        counts = self._counts[ranks]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        # the place of every id in the list of all: where its rank's begin, and how many of that rank came before it
        places = np.arange(total) + np.repeat(self._begins[ranks] - (ends - counts), counts)
        bounds = itertools.pairwise([0, *ends[cuts].tolist(), total])
        ids = self._ids[places]
        return [ids[begin:end] for begin, end in bounds]


class Choice:
    """Whether to encode by a fast way: once there was enough text to be worth it, and if it is faster on that.

    Args:
        make: returns the fast way, None where there is none.
        slow: the other.
    """

    def __init__(self, make: Callable[[], Quick | None], slow: Callable[[Sequence[str]], list[list[int]]]) -> None:
        self._make: Callable[[], Quick | None] | None = make
        self._slow = slow
        self._quick: Quick | None = None
        self._seen = 0

    def __call__(self, texts: Sequence[str]) -> Quick | None:
        """Return the fast way for texts that are to be encoded, None to take the other."""
        self._seen += sum(map(len, texts))
        if self._make is not None and self._seen >= WORTH:
            quick, self._make = self._make(), None
            self._quick = quick if quick is not None and self._faster(quick, texts) else None
        return self._quick

    def _faster(self, quick: Quick, texts: Sequence[str]) -> bool:
        """Return whether it is, on a part of the texts; for long words of Chinese, sentencepiece itself is faster."""
        part = next(_groups(texts), [])
        begin = time.perf_counter()
        quick(part)
        middle = time.perf_counter()
        self._slow(part)
        return middle - begin < time.perf_counter() - middle


def threads() -> int:
    """Return how many threads may encode, by the variables that the `tokenizers` library goes by too."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("off", "false", "f", "no", "n", "0"):
        return 1
    given = os.environ.get("RAYON_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    begin = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= GROUP:
            yield texts[begin:end]
            begin, size = end, 0
    if begin < len(texts):
        yield texts[begin:]


def arrays(found: Sequence[Sequence[int]]) -> list[Ids]:
    """Return lists of ids as arrays."""
    return [np.array(ids, dtype=np.int32) for ids in found]
