"""Read a run's metrics as curves, and thin out long ones without losing their spikes."""

from __future__ import annotations

import json
import math
import statistics
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

from llmx.errors import DataError

AXES = ("step", "tokens", "epoch")
"""What a row is plotted over, or a mere multiple of it; everything else in a row that is a number is a curve."""

SHARES = 5
"""Points kept of each bucket: the first, the last, the lowest, the highest, and a gap."""

LARGEST = 1e300
"""A value from here on is a gap: sums and differences of such values are no numbers."""

Index = list[int]


@define
class Series:
    """One curve as it was measured: equally long columns. A value that was not finite is NaN."""

    steps: array[float] = Factory(lambda: array("d"))
    tokens: array[float] = Factory(lambda: array("d"))
    values: array[float] = Factory(lambda: array("d"))

    def add(self, step: float, tokens: float, value: float) -> None:
        """Append a point; points at this step or later came from before a resume and go."""
        while self.steps and self.steps[-1] >= step:
            for column in (self.steps, self.tokens, self.values):
                column.pop()
        self.steps.append(step)
        self.tokens.append(tokens)
        self.values.append(value)

    def finite(self) -> list[int]:
        """Return the indices of the points that have a value."""
        return [i for i, value in enumerate(self.values) if value == value]


@frozen
class Curve:
    """A series thin enough for a page: columns of points, and of the mean of each bucket if points were left out."""

    points: tuple[list[float], list[float], list[float]]
    means: tuple[list[float], list[float], list[float]] | None


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each line of a JSON-lines file, one at a time.

    A last line that does not parse is left out: a run may be writing it, or was killed while it did.

    Raises:
        DataError: another line does not parse, or is no object.
    """
    fault: DataError | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if fault is not None:
                raise fault
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                fault = DataError(f"{path}, line {number}: is no JSON: remove the line")
                continue
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: is no JSON object but {line[:40].strip()!r}: remove the line")
            yield number, row


def read_metrics(path: Path) -> dict[str, Series]:
    """Return the curves of a metrics file by name, in the order in which they first appear.

    Raises:
        DataError: a row is no object, or has no step.
    """
    found: dict[str, Series] = {}
    tokens = 0.0
    for number, row in read_rows(path):
        step = number_of(row.get("step"))
        if step is None or not math.isfinite(step):
            raise DataError(f"{path}, line {number}: has no step: remove the line")
        now = number_of(row.get("tokens"))
        tokens = now if now is not None and math.isfinite(now) else tokens
        for name, value in row.items():
            if name in AXES:
                continue
            y = math.nan if value is None else number_of(value)
            if y is not None:
                found.setdefault(name, Series()).add(step, tokens, y if abs(y) < LARGEST else math.nan)
    return found


def number_of(value: Any) -> float | None:
    """Return a JSON number as a float, infinite where it is too large for one; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def thin(series: Series, limit: int) -> Curve:
    """Return at most `limit` points of a series: all, or of each bucket of neighbours those that draw its outline.

    First, last, lowest and highest of a bucket draw the same line as all of its points once a bucket is narrower than
    a pixel (M4: Jugel, Jerzak, Hackenbroich, Markl, VLDB 2014), so that no spike is lost. The mean of each bucket
    shows the trend.
    """
    columns = (series.steps, series.tokens, series.values)
    if len(series.values) <= limit:
        return Curve((list(columns[0]), list(columns[1]), list(columns[2])), None)
    kept: Index = []
    means: list[tuple[float, float, float]] = []
    for bucket in buckets(len(series.values), max(1, limit // SHARES)):
        kept += outline(series.values, bucket)
        means.append(mean(series, bucket))
    steps, tokens, values = ([column[i] for i in kept] for column in columns)
    x, t, y = (list(column) for column in zip(*means, strict=True))
    return Curve((steps, tokens, values), (x, t, y))


def buckets(length: int, count: int) -> Iterator[range]:
    """Yield `count` neighbouring ranges that cover `range(length)`."""
    for i in range(count):
        yield range(length * i // count, length * (i + 1) // count)


def outline(values: array[float], bucket: range) -> Index:
    """Return the indices of a bucket's first, last, lowest and highest value and of one gap, in order."""
    finite = [i for i in bucket if values[i] == values[i]]
    gap = next((i for i in bucket if values[i] != values[i]), None)
    kept = set() if gap is None else {gap}
    if finite:
        at = values.__getitem__
        kept |= {finite[0], finite[-1], min(finite, key=at), max(finite, key=at)}
    return sorted(kept)


def mean(series: Series, bucket: range) -> tuple[float, float, float]:
    """Return the middle of a bucket's steps and tokens, and the mean of its values; NaN if it has none."""
    finite = [value for value in series.values[bucket.start : bucket.stop] if value == value]
    first, last = bucket[0], bucket[-1]
    step = (series.steps[first] + series.steps[last]) / 2
    tokens = (series.tokens[first] + series.tokens[last]) / 2
    return step, tokens, statistics.fmean(finite) if finite else math.nan
