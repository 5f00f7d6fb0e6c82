"""Lengths of many things, counted in little memory: quantiles to a tenth of a per cent, and bars for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from attrs import Factory, define

BITS = 11
"""Leading bits of a length that are told apart: all lengths below 2048, and 1 in 1024 above."""

WIDEST_BAR = 40


@define
class Lengths:
    """A histogram of whole numbers that never holds more than some ten thousand counts."""

    counts: Counter[int] = Factory(Counter)
    """How often each length came, lengths above 2048 rounded down to their leading bits."""
    total: int = 0
    """Sum of all lengths, exact."""
    longest: int = 0

    def add(self, length: int, times: int = 1) -> None:
        """Count a length."""
        shift = max(0, length.bit_length() - BITS)
        self.counts[length >> shift << shift] += times
        self.total += length * times
        self.longest = max(self.longest, length)

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Lengths:
        """Count many."""
        made = cls()
        for length, times in Counter(lengths).items():
            made.add(int(length), times)
        return made

    @property
    def number(self) -> int:
        """How many lengths were counted."""
        return self.counts.total()

    def quantile(self, share: float) -> int:
        """Return the length that `share` of all do not exceed; 0 where there is none."""
        wanted, seen = share * self.number, 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            if seen >= wanted:
                return length
        return 0

    def above(self, length: int) -> int:
        """Return how many are longer; above 2048 to a tenth of a per cent of the length."""
        return sum(times for each, times in self.counts.items() if each > length)

    def octaves(self, parts: int = 1) -> Iterator[tuple[int, int, int]]:
        """Yield (shortest, longest, how many) of neighbouring bins, `parts` to each doubling, empty ones too."""
        found: Counter[int] = Counter()
        for length, times in self.counts.items():
            found[bin_of(length, parts)] += times
        for number in range(min(found, default=0), max(found, default=-1) + 1):
            low, high = edge_of(number, parts), edge_of(number + 1, parts) - 1
            if low <= high:  # among the smallest lengths a bin may hold no whole number
                yield low, high, found[number]

    def summary(self) -> dict[str, int | float]:
        """Return the figures of a table."""
        number = self.number
        return {
            "mean": round(self.total / number, 1) if number else 0,
            "median": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "longest": self.longest,
        }

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` reads."""
        counts = {str(length): times for length, times in sorted(self.counts.items())}
        return {"counts": counts, "total": self.total, "longest": self.longest}

    @classmethod
    def from_json(cls, found: Mapping[str, object]) -> Lengths:
        counts, total, longest = found["counts"], found["total"], found["longest"]
        assert isinstance(counts, dict)
        assert isinstance(total, int)
        assert isinstance(longest, int)
        return cls(Counter({int(length): times for length, times in counts.items()}), total, longest)


def bin_of(length: int, parts: int) -> int:
    """Return the number of the bin a length belongs to; 0 has a bin of its own, -1."""
    if length < 1:
        return -1
    octave = length.bit_length() - 1
    number = octave * parts
    while number + 1 < (octave + 1) * parts and edge_of(number + 1, parts) <= length:
        number += 1
    return number


def edge_of(number: int, parts: int) -> int:
    """Return the shortest length of a bin."""
    if number < 0:
        return 0
    octave, part = divmod(number, parts)
    return -int(-(2 ** (octave + part / parts)) // 1)  # rounded up: edges are whole


def bars(lengths: Lengths, unit: str) -> list[str]:
    """Return a histogram as lines of text."""
    rows = list(lengths.octaves())
    most = max((times for *_, times in rows), default=0)
    labels = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high, _ in rows]
    width = max(map(len, labels), default=0)
    lines = [f"{unit:>{width}}"]
    for label, (*_, times) in zip(labels, rows, strict=True):
        bar = "█" * round(WIDEST_BAR * times / most) or ("▏" if times else "")
        lines.append(f"{label:>{width}}  {bar} {times:,}" if times else f"{label:>{width}}")
    return lines
