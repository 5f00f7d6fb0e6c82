"""Several sources in one sequence: exact shares, each source in its own order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx.data.mixing import MixedRows, Turns
from llmx.data.packing import PackedRows, PaddedRows
from llmx.data.store import TokenStore
from llmx.data.stream import StreamRows
from llmx.protocols import Batch

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@given(WEIGHTS, st.integers(0, 5), st.integers(0, 10**12), st.integers(1, 5000))
@settings(max_examples=400)
def test_shares_are_exact_over_any_window(weights: list[float], seed: int, first: int, window: int) -> None:
    """A window has each source's share to the row for two sources, to three rows for more, wherever it begins."""
    turns = Turns(weights, seed)
    begin, end = turns.before(first), turns.before(first + window)
    assert sum(begin) == first
    assert sum(end) == first + window
    most = 1 if len(weights) < 3 else 3
    for a, b, weight in zip(begin, end, weights, strict=True):
        assert abs((b - a) - window * weight / sum(weights)) < most + 1e-6


@given(WEIGHTS, st.integers(0, 5), st.integers(0, 10**6))
@settings(max_examples=100)
def test_each_position_is_one_sources_turn(weights: list[float], seed: int, first: int) -> None:
    """From one position to the next one source goes one row on."""
    turns = Turns(weights, seed)
    assert turns.before(0) == [0] * len(weights)
    for position in range(first, first + 50):
        steps = [b - a for a, b in zip(turns.before(position), turns.before(position + 1), strict=True)]
        assert sorted(steps) == [0] * (len(weights) - 1) + [1]


def test_a_light_source_begins_somewhere_else_with_another_seed() -> None:
    """A source of one row in a thousand does not come first, or last, for every seed."""
    firsts = {next(p for p in range(1000) if Turns([999, 1], seed).before(p + 1)[1]) for seed in range(20)}
    assert len(firsts) > 15


@pytest.fixture(scope="module")
def sources(make_store: Callable[..., TokenStore]) -> list[tuple[StreamRows | PackedRows | PaddedRows, float]]:
    """A stream, packed chats and padded texts, with weights 5, 3 and 2; no token is in two of them."""
    long = make_store([range(n * 100, n * 100 + 100) for n in range(9)])
    chats = make_store([range(1000 + n * 9, 1009 + n * 9) for n in range(30)], [[False] * 5 + [True] * 4] * 30)
    short = make_store([range(2000 + n * 7, 2007 + n * 7) for n in range(20)])
    return [(StreamRows(long, 16, 0), 5), (PackedRows(chats, 16, 0), 3), (PaddedRows(short, 16, 0), 2)]


def test_each_source_runs_through_its_own_rows_in_its_own_order(sources) -> None:  # type: ignore[no-untyped-def]
    """The rows of a source within the mixture are its rows 0, 1, 2, … over its epochs, with all that is in them."""
    mixed = MixedRows(sources, 0)
    parts = [mixed.batch(at, 8) for at in range(0, 200, 8)]
    batch = Batch(*(torch.cat([getattr(p, name) for p in parts]) for name in TENSORS), sum(p.count for p in parts))
    owner = torch.bucketize(batch.ids_BT[:, 0].contiguous(), torch.tensor([1000, 2000]), right=True)
    assert owner.bincount().tolist() == [100, 60, 40]
    for number, (rows, _) in enumerate(sources):
        here = owner == number
        alone = rows.batch(0, int(here.sum()))
        assert torch.equal(batch.ids_BT[here], alone.ids_BT)
        assert torch.equal(batch.labels_BT[here], alone.labels_BT)
        if alone.documents_BT is not None:
            assert torch.equal(batch.documents_BT[here], alone.documents_BT)
            assert torch.equal(batch.positions_BT[here], alone.positions_BT)
        else:  # one document a row: it is number 0 from the first position to the last
            assert not batch.documents_BT[here].any()
            assert torch.equal(batch.positions_BT[here][0], torch.arange(16))
    assert batch.count == sum(rows.batch(0, n).count for (rows, _), n in zip(sources, (100, 60, 40), strict=True))


TENSORS = ("ids_BT", "labels_BT", "documents_BT", "positions_BT")


def test_an_epoch_of_a_mixture_is_that_many_rows_as_all_sources_have(sources) -> None:  # type: ignore[no-untyped-def]
    """And each source tells its own; facts and tokens are sums."""
    mixed = MixedRows(sources, 0)
    per_epoch = [rows.rows_per_epoch for rows, _ in sources]
    assert mixed.rows_per_epoch == sum(per_epoch)
    assert mixed.epoch(3 * sum(per_epoch)) == 3
    own = [100 * share / rows for share, rows in zip((0.5, 0.3, 0.2), per_epoch, strict=True)]
    assert mixed.epochs(100) == pytest.approx(own, abs=0.1)
    assert mixed.tokens == 900 + 270 + 140
    assert mixed.facts()["documents"] == 9 + 30 + 20
    assert mixed.facts()["rows"] == sum(per_epoch)
    assert MixedRows(sources[2:], 0).batch(0, 3).documents_BT is None
