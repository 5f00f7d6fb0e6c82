"""The order of rows depends on the position alone: not on who reads it, nor on what was read before."""

from __future__ import annotations

import functools
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmx.assembly import Sizes
from llmx.data.mixing import MixedRows
from llmx.data.packing import PackedRows, PaddedRows
from llmx.data.rows import Rows, rows_of
from llmx.data.store import TokenStore
from llmx.data.stream import StreamRows
from llmx.protocols import Batch
from llmx.train.loop import Trainer
from llmx.train.parallel import World

KINDS = {"stream": StreamRows, "best-fit": PackedRows, "none": PaddedRows}


@pytest.fixture(scope="module")
def endless(make_store: Callable[..., TokenStore]) -> Callable[[str, int], Rows]:
    """New rows of a kind and seed, as each rank, worker and resumed run makes its own."""
    draw = random.Random(0)
    stores = []
    for masked in (False, True, False):
        ids = [[draw.randrange(10**6) for _ in range(draw.randint(1, 40))] for _ in range(20)]
        masks = [[draw.random() < 0.5 for _ in each] if masked else None for each in ids]
        stores.append(make_store(ids, masks, shard_tokens=100))

    def make(kind: str, seed: int) -> Rows:
        if kind == "mixed":
            parts = [rows_of(store, "auto", 8, seed) for store in stores]
            return MixedRows([(part, weight) for part, weight in zip(parts, (3, 1, 0.5), strict=True)], seed)
        return KINDS[kind](stores[1], 8, seed)

    return make


@pytest.fixture(scope="module")
def single(endless: Callable[[str, int], Rows]) -> Callable[[str, int], list[bytes]]:
    """The sequence as one reader reads it, row by row; several epochs long."""

    @functools.cache
    def read(kind: str, seed: int) -> list[bytes]:
        rows = endless(kind, seed)
        return [each for position in range(80) for each in rows_in(rows.batch(8 * position, 8))]

    return read


def rows_in(batch: Batch) -> list[bytes]:
    """The rows of a batch, each as all that is in it."""
    tensors = (batch.ids_BT, batch.labels_BT, batch.documents_BT, batch.positions_BT)
    cells = torch.cat([each.long() for each in tensors if each is not None], dim=1).numpy()
    return [row.tobytes() for row in cells]


def as_the_trainer_reads(rows: Rows, step: int, world: World, sizes: Sizes) -> list[Batch]:
    """The micro-batches of one rank, by the trainer's own code."""
    run = SimpleNamespace(sizes=sizes, state=SimpleNamespace(step=step), world=world, train_rows=rows)
    return Trainer._batches(SimpleNamespace(run=run))  # type: ignore[arg-type]


def off_by_one(rows: Rows, step: int, world: World, sizes: Sizes) -> list[Batch]:
    """The same with a planted fault: the last rank begins one row late."""
    late = int(world.size > 1 and world.rank == world.size - 1)
    first = step * sizes.rows + world.rank * sizes.rank_rows + late
    return [rows.batch(at, sizes.micro_batch) for at in range(first, first + sizes.rank_rows, sizes.micro_batch)]


def late_after_a_resume(rows: Rows, step: int, world: World, sizes: Sizes) -> list[Batch]:
    """The same with another: what a run reads depends on what it has read before."""
    done = rows.__dict__.setdefault("done", [])
    done.append(step)
    return as_the_trainer_reads(rows, step - (done[0] > 0), world, sizes)


CHOICES: dict[str, Sequence[int]] = {
    "seed": range(5),
    "ranks": (1, 2, 4, 8),
    "workers": range(1, 5),
    "micro_batches": range(1, 4),
    "micro_batch": range(1, 4),
    "stop": range(5),
}
ALL = [dict(zip(CHOICES, each, strict=True)) for each in itertools.product(*CHOICES.values())]


def check_order(endless: Any, single: Any, read: Callable[..., list[Batch]], kind: str, case: dict[str, Any]) -> None:
    """Read up to a stop and from there on anew, on some ranks, by some workers each: it is the sequence of one."""
    rank_rows = case["micro_batches"] * case["micro_batch"]
    sizes = Sizes(8, rank_rows * case["ranks"], rank_rows, case["micro_batch"], steps=5)
    found: list[bytes] = []
    for steps in (range(max(0, case["stop"] - 1), case["stop"]), range(case["stop"], case["stop"] + 2)):
        # begun anew after the stop, on each rank and in each worker, by nothing but the step
        readers: dict[int, Rows] = defaultdict(lambda: endless(kind, case["seed"]))
        for step in steps:
            for rank in range(case["ranks"]):
                reader = readers[rank * 4 + step % case["workers"]]
                for batch in read(reader, step, World(rank, case["ranks"]), sizes):
                    found += rows_in(batch)
    first = max(0, case["stop"] - 1) * sizes.rows
    sequence = single(kind, case["seed"])
    if first + len(found) > len(sequence):
        raise ValueError("the sequence to compare with is too short")
    assert found == sequence[first : first + len(found)], f"another order: {kind}, {case}"


def check_many(endless: Any, single: Any, read: Callable[..., list[Batch]], kind: str) -> int:
    """Check 520 cases of a kind of rows, and return how many different ones they were."""
    seen: set[tuple[int, ...]] = set()

    @given(st.sampled_from(ALL))
    @settings(max_examples=520, database=None, phases=[Phase.generate, Phase.shrink])
    def check(case: dict[str, Any]) -> None:
        seen.add(tuple(case.values()))
        check_order(endless, single, read, kind, case)

    check()
    return len(seen)


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_the_order_is_the_same_for_any_ranks_workers_and_stop(endless: Any, single: Any, kind: str) -> None:
    """Ranks 1 to 8, workers, micro-batches and a resume anywhere: 520 different cases of each kind, 2,080 in all."""
    assert check_many(endless, single, as_the_trainer_reads, kind) == 520


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("fault", [off_by_one, late_after_a_resume])
def test_an_order_that_is_off_by_one_is_found(
    endless: Any, single: Any, fault: Callable[..., list[Batch]], kind: str
) -> None:
    """The check above fails on a reader with a planted fault, so it can."""
    with pytest.raises(AssertionError, match="another order"):
        check_many(endless, single, fault, kind)


def test_threads_may_share_rows(endless: Any, single: Any) -> None:
    """Four threads that ask the same object at once, over the ends of epochs, get what one gets."""
    for kind in (*KINDS, "mixed"):
        rows, sequence = endless(kind, 0), single(kind, 0)
        order = random.Random(0).sample(range(300), 300)
        with ThreadPoolExecutor(4) as pool:
            batches = list(pool.map(lambda position, rows=rows: rows.batch(position, 2), order))
        for position, batch in zip(order, batches, strict=True):
            assert rows_in(batch) == sequence[position : position + 2]
