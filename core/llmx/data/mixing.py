"""Rows of several sources, mixed by weight."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmx.data.batches import stream_seed
from llmx.protocols import Batch

if TYPE_CHECKING:
    from llmx.data.rows import Rows


class MixedRows:
    """An endless sequence of the rows of several sources, each of which runs through its own epochs.

    Which source a position reads is a formula of the position: wherever a window of positions begins, each source has
    its share of it, but for one row with two sources, and less than three with more.

    Args:
        sources: the rows of each, of one length, and its weight: its share of the rows is its part of all weights.
        seed: of the places of the sources in the sequence.
    """

    def __init__(self, sources: Sequence[tuple[Rows, float]], seed: int) -> None:
        self.sources = [rows for rows, _ in sources]
        self.length = self.sources[0].length
        assert all(rows.length == self.length for rows in self.sources)
        self.rows_per_epoch = sum(rows.rows_per_epoch for rows in self.sources)
        self.tokens = sum(rows.tokens for rows in self.sources)
        self.mixed = any(rows.mixed for rows in self.sources)
        self._turns = Turns([weight for _, weight in sources], seed)

    def batch(self, position: int, rows: int) -> Batch:
        """Return rows [position, position + rows) of the endless sequence."""
        counts = [self._turns.before(each) for each in range(position, position + rows + 1)]
        parts: list[Batch] = []
        places: list[int] = []
        for number, source in enumerate(self.sources):
            read = [each[number] for each in counts]
            if read[-1] > read[0]:
                parts.append(source.batch(read[0], read[-1] - read[0]))
                places += [row for row, (now, then) in enumerate(itertools.pairwise(read)) if then > now]
        order = torch.tensor(places).argsort()

        def joined(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))[order]

        return Batch(
            joined([part.ids_BT for part in parts]),
            joined([part.labels_BT for part in parts]),
            joined([_documents(part) for part in parts]) if self.mixed else None,
            joined([_positions(part) for part in parts]) if self.mixed else None,
            sum(part.count for part in parts),
        )

    def epoch(self, position: int) -> float:
        """Return how many times as many rows as all sources have lie before a position."""
        return position / self.rows_per_epoch

    def epochs(self, position: int) -> list[float]:
        """Return how many of its own epochs each source has behind it before a position."""
        counts = self._turns.before(position)
        return [rows.epoch(count) for rows, count in zip(self.sources, counts, strict=True)]

    def facts(self) -> dict[str, int]:
        """Return the sums over the sources of what an epoch of each reads and what it does not."""
        totals: Counter[str] = Counter()
        for rows in self.sources:
            totals.update(rows.facts())
        return dict(totals)


def _documents(batch: Batch) -> Tensor:
    if batch.documents_BT is None:
        return torch.zeros_like(batch.ids_BT, dtype=torch.int32)
    return batch.documents_BT


def _positions(batch: Batch) -> Tensor:
    if batch.positions_BT is None:
        return torch.arange(batch.ids_BT.shape[1]).expand_as(batch.ids_BT)
    return batch.positions_BT


class Turns:
    """Whose turn each position is: positions spread over sources as evenly as whole numbers can be.

    The heaviest source takes its share of all positions, the next its share of those that are left, and so on; each
    share is spread as a line is drawn over pixels (Bresenham 1965), in whole numbers, so nothing drifts.

    Args:
        weights: above 0.
        seed: of where in its round each source begins.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._order = sorted(range(len(weights)), key=lambda number: -weights[number])
        left = sum(map(Fraction, weights), Fraction())
        self._shares: list[tuple[int, int, int]] = []
        for stage, number in enumerate(self._order):
            part, whole = (Fraction(weights[number]) / left).as_integer_ratio()
            self._shares.append((part, whole, stream_seed(seed, "turns", stage) * whole >> 63))
            left -= Fraction(weights[number])

    def before(self, position: int) -> list[int]:
        """Return how many positions before this one are each source's."""
        counts = [0] * len(self._order)
        for number, (part, whole, phase) in zip(self._order, self._shares, strict=True):
            counts[number] = (position * part + phase) // whole
            position -= counts[number]
        return counts
