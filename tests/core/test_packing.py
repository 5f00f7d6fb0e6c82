"""Packing: what fits together, and that documents which share a row are trained as if each were alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx.data.batches import shuffled
from llmx.data.packing import PackedRows, best_fit
from llmx.data.rows import HeldOut, Rows, rows_of
from llmx.data.store import TokenStore
from llmx.protocols import IGNORE, Batch
from llmx_objectives import CausalLMOptions
from llmx_objectives.causal import causal_lm
from llmx_tinyllm import TinyLLMOptions
from llmx_tinyllm.model import TinyLLM

VOCAB = 64


def plain_best_fit(sizes: list[int], length: int) -> list[int]:
    """Best-fit decreasing, word for word: the room each row has left."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [(room, row) for row, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting)[1]] -= size
        else:
            rooms.append(length - size)
    return sorted(rooms)


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), min_size=1, max_size=80)))
)
@settings(max_examples=300)
def test_rows_are_those_of_best_fit_decreasing(case: tuple[int, list[int]]) -> None:
    """Every piece is in one row, no row overflows, and their room is that of the plain algorithm."""
    length, sizes = case
    order, firsts = best_fit(np.array(sizes, np.int32), length, shuffled(len(sizes), 0))
    assert sorted(order.tolist()) == list(range(len(sizes)))
    assert (firsts[0], firsts[-1]) == (0, len(sizes))
    rooms = [length - sum(sizes[piece] for piece in order[a:b]) for a, b in itertools.pairwise(firsts)]
    assert min(rooms) >= 0
    assert sorted(rooms) == plain_best_fit(sizes, length)


def test_what_is_packed_together_is_chance(make_store: Callable[..., TokenStore]) -> None:
    """Documents of one length are not taken in the order of the corpus, and another seed packs others together."""
    store = make_store([[n] * 11 for n in range(400)])
    rows = [PackedRows(store, 40, seed).batch(0, 100).ids_BT[:, ::10].tolist() for seed in (0, 1)]
    together = [{frozenset(row) for row in each} for each in rows]
    assert len(together[0] & together[1]) < 5
    in_sequence = sum(b == a + 1 for row in rows[0] for a, b in itertools.pairwise(row))
    assert in_sequence < 20


# --- the loss of documents in a row is the loss of each alone --------------------------------------------------------


Documents = list[tuple[list[int], list[bool]]]


def documents(longest: int) -> Documents:
    """Texts and chats of random tokens; of the last two chats no token is trained on, and the end."""
    draw = random.Random(0)
    made: Documents = []
    for number in range(24):
        ids = [draw.randrange(VOCAB) for _ in range(draw.randint(2, longest))]
        made.append((ids, [number % 2 == 0 or draw.random() < 0.4 for _ in ids]))
    return [*made, ([1, 2, 3], [False] * 3), ([4, 5, 6], [False, False, True])]


def model() -> TinyLLM:
    torch.manual_seed(0)
    return TinyLLM(TinyLLMOptions(preset="nano", layers=2, context_length=512), vocab_size=VOCAB)


def alone(texts: Documents) -> Iterator[Batch]:
    """Each document in a batch of its own, made without a store or rows."""
    for ids, trained in texts:
        labels = [token if counts else IGNORE for token, counts in zip(ids[1:], trained[1:], strict=True)]
        row_BT, labels_BT = torch.tensor([ids[:-1]]), torch.tensor([labels])
        yield Batch(row_BT, labels_BT, None, None, int((labels_BT != IGNORE).sum()))


def losses(batches: Any) -> tuple[float, torch.Tensor, int]:
    """The mean loss over the labels that count in all batches, its gradient, and how many labels they are."""
    net, objective = model(), causal_lm(CausalLMOptions())
    batches = list(batches)
    count = sum(batch.count for batch in batches)
    total = torch.zeros(())
    for batch in batches:
        loss = objective(net, batch)
        (loss / count).backward()
        total += loss.detach()
    gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])
    return float(total) / count, gradient, count


def epoch_of(rows: Rows) -> Iterator[Batch]:
    return (rows.batch(at, min(3, rows.rows_per_epoch - at)) for at in range(0, rows.rows_per_epoch, 3))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("packing", ["stream", "best-fit", "none"])
def test_packed_loss_is_the_loss_of_each_document_alone(
    make_store: Callable[..., TokenStore], packing: Any, masked: bool
) -> None:
    """Loss and gradient over an epoch, in fp32 to 1e-6, for training rows and held-out rows."""
    texts = documents(40)
    if not masked:
        texts = [(ids, [True] * len(ids)) for ids, _ in texts]
    store = make_store([ids for ids, _ in texts], [mask for _, mask in texts] if masked else None, shard_tokens=150)
    # a stream cuts documents where its rows end, so there is one row that holds all
    length = store.tokens - 1 if packing == "stream" else 40
    loss, gradient, count = losses(alone(texts))
    rows = rows_of(store, packing, length, 0)
    for batches in (epoch_of(rows), HeldOut([store], packing, length).batches(3, None)):
        found, found_gradient, found_count = losses(batches)
        assert found_count == count == store.predicted
        assert found == pytest.approx(loss, abs=1e-6)
        assert float((found_gradient - gradient).norm() / gradient.norm()) < 1e-6


def test_a_stream_cuts_documents_into_parts_that_are_trained_alone(make_store: Callable[..., TokenStore]) -> None:
    """Where rows cut documents, the loss is that of the parts, each begun anew."""
    texts = [(ids, [True] * len(ids)) for ids, _ in documents(40)]
    store = make_store([ids for ids, _ in texts])
    held_out = HeldOut([store], "stream", 25)
    parts: Documents = []
    at = 0
    for ids, trained in texts:
        # a window of 25 positions has 26 tokens: the last is a label there, and an input in the next one
        cuts = [0, *(cut for cut in range(len(ids)) if cut and (at + cut) % 25 == 0), len(ids) - 1]
        parts += [(ids[a : b + 1], trained[a : b + 1]) for a, b in itertools.pairwise(cuts) if b > a]
        at += len(ids)
    loss, gradient, count = losses(alone(parts))
    found, found_gradient, found_count = losses(held_out.batches(4, None))
    assert found_count == count
    assert found == pytest.approx(loss, abs=1e-6)
    assert float((found_gradient - gradient).norm() / gradient.norm()) < 1e-6


@pytest.mark.parametrize("packing", ["stream", "best-fit"])
def test_a_leak_between_documents_would_be_seen(make_store: Callable[..., TokenStore], packing: Any) -> None:
    """The comparison above fails where documents are not told apart, or where positions do not begin anew."""
    texts = [(ids, [True] * len(ids)) for ids, _ in documents(40)]
    store = make_store([ids for ids, _ in texts])
    rows = rows_of(store, packing, store.tokens - 1 if packing == "stream" else 40, 0)
    loss, gradient, _ = losses(alone(texts))
    for fault in ({"documents_BT": None}, {"documents_BT": None, "positions_BT": None}):
        found, found_gradient, _ = losses(evolve(batch, **fault) for batch in epoch_of(rows))
        assert abs(found - loss) > 1e-5
        assert float((found_gradient - gradient).norm() / gradient.norm()) > 1e-3
