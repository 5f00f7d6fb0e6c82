"""Rows: what is in them, what an epoch reads, and what is left out.

Every token of these stores is its own place in the store, so a batch tells where each of its tokens came from.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx import DataError
from llmx.data.batches import positions_in, stream_seed
from llmx.data.packing import PackedRows, PaddedRows
from llmx.data.rows import HeldOut, rows_of
from llmx.data.store import TokenStore
from llmx.data.stream import StreamRows
from llmx.protocols import IGNORE, Batch

KINDS = {"stream": StreamRows, "best-fit": PackedRows, "none": PaddedRows}


class Corpus:
    """Documents of random lengths: texts, and if `masked` chats, of which some or none of the tokens are trained on."""

    def __init__(self, make_store: Callable[..., TokenStore], seed: int, masked: bool, longest: int = 40) -> None:
        draw = random.Random(seed)
        lengths = [draw.choice([1, 2, draw.randint(1, longest)]) for _ in range(draw.randint(5, 40))]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        self.documents = [range(end - n, end) for n, end in zip(lengths, ends, strict=True)]
        self.masks: list[list[bool] | None] = [
            [draw.random() < share for _ in ids]
            if masked and (share := draw.choice([0.0, 0.1, 0.8, 1.0])) < 1
            else None
            for ids in self.documents
        ]
        self.store = make_store(self.documents, self.masks, shard_tokens=draw.choice([25, 10**6]))

    def trained(self, number: int, place: int) -> bool:
        mask = self.masks[number]
        return mask is None or mask[place]

    def is_text(self, number: int) -> bool:
        return all(self.trained(number, place) for place in range(len(self.documents[number])))

    @functools.cached_property
    def owner(self) -> list[tuple[int, int]]:
        """The document of each token, and its place there."""
        return [(number, place) for number, ids in enumerate(self.documents) for place in range(len(ids))]

    def labels(self, length: int | None = None) -> Counter[int]:
        """All tokens that should be predicted: of a chat, only those within a row of `length` from its beginning."""
        every = ((token, *self.owner[token]) for token in range(len(self.owner)))
        return Counter(
            token
            for token, number, place in every
            if place and self.trained(number, place) and (length is None or place <= length or self.is_text(number))
        )


def labels_of(batch: Batch) -> Counter[int]:
    return Counter(batch.labels_BT[batch.labels_BT != IGNORE].tolist())


def check_batch(batch: Batch, corpus: Corpus) -> None:
    """Each label follows its input in its document and is trained on; documents and positions are told apart."""
    assert batch.count == sum(labels_of(batch).values())
    for row, (ids, labels) in enumerate(zip(batch.ids_BT.tolist(), batch.labels_BT.tolist(), strict=True)):
        assert any(label != IGNORE for label in labels), f"row {row} has no label that counts"
        for t, (token, label) in enumerate(zip(ids, labels, strict=True)):
            if label == IGNORE:
                continue
            number, place = corpus.owner[label]
            assert label == token + 1
            assert place > 0
            assert corpus.trained(number, place)
            # from here back to where the position says the document begins in this row, it is one document
            begin = t if batch.positions_BT is None else int(batch.positions_BT[row, t])
            assert ids[t - begin : t + 1] == list(range(token - begin, token + 1))
            assert place > begin
            if batch.documents_BT is not None:
                seen = [u for u in range(t + 1) if batch.documents_BT[row, u] == batch.documents_BT[row, t]]
                assert seen == list(range(t - begin, t + 1))


def check_facts(facts: dict[str, int], batch: Batch, corpus: Corpus, kind: str, length: int) -> None:
    """Compare the counts with those of plain loops."""
    slots = {number: len(ids) - 1 for number, ids in enumerate(corpus.documents)}
    assert facts["documents"] == len(slots)
    assert facts["tokens"] == len(corpus.owner)
    assert facts["positions"] == batch.ids_BT.numel()
    if batch.documents_BT is not None:
        assert facts["padding"] == int((batch.documents_BT == -1).sum())
    if kind == "stream":
        return
    kept = {corpus.owner[token][0] for token in corpus.labels(length)}
    left_out = slots.keys() - kept
    assert facts["left_out_documents"] == len(left_out)
    assert facts["left_out_tokens"] == sum(slots[number] + 1 for number in left_out)
    longer = [number for number in kept if slots[number] > length]
    assert facts["cut_documents"] == sum(corpus.is_text(number) for number in longer)
    chats = [number for number in longer if not corpus.is_text(number)]
    assert facts["truncated_documents"] == len(chats)
    assert facts["truncated_tokens"] == sum(slots[number] - length for number in chats)
    read = sum(slots[number] for number in kept) - facts["truncated_tokens"]
    assert facts["padding"] == facts["positions"] - read


@given(st.sampled_from(list(KINDS)), st.integers(0, 10**6), st.booleans(), st.integers(2, 30))
@settings(max_examples=150)
def test_an_epoch_has_every_label_once(
    make_store: Callable[..., TokenStore], kind: str, seed: int, masked: bool, length: int
) -> None:
    """Each token that counts is predicted once an epoch, from its own document alone; the rest is counted."""
    corpus = Corpus(make_store, seed, masked)
    try:
        rows = rows_of(corpus.store, kind, length, seed)  # type: ignore[arg-type]
    except DataError:
        few = kind == "stream" and not corpus.store.masked and len(corpus.owner) < length + 1
        assert few or not corpus.labels(None if kind == "stream" else length)
        return
    for epoch in (0, 3):
        batch = rows.batch(epoch * rows.rows_per_epoch, rows.rows_per_epoch)
        check_batch(batch, corpus)
        check_facts(rows.facts(), batch, corpus, kind, length)
        found = labels_of(batch)
        if kind == "stream" and not corpus.store.masked:
            # windows at the epoch's own offset leave out less than two rows at the ends
            assert found <= corpus.labels()
            assert sum(found.values()) > sum(corpus.labels().values()) - 2 * length
        else:
            assert found == corpus.labels(None if kind == "stream" else length)
    assert rows.epoch(2 * rows.rows_per_epoch) == 2


def test_auto_streams_texts_and_packs_chats(make_store: Callable[..., TokenStore]) -> None:
    """`data.packing = "auto"` looks at whether anything is masked."""
    ids = [list(range(10))] * 3
    assert isinstance(rows_of(make_store(ids), "auto", 4, 0), StreamRows)
    assert isinstance(rows_of(make_store(ids, [[True] * 9 + [False]] * 3), "auto", 4, 0), PackedRows)


def test_labels_documents_and_positions_by_hand(make_store: Callable[..., TokenStore]) -> None:
    """A stream of three documents, and the same packed: what is in the row, cell by cell."""
    store = make_store([[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    batch = StreamRows(store, 8, 0).batch(0, 1)
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.labels_BT.tolist() == [[2, 3, IGNORE, 5, IGNORE, 7, 8, 9]]
    assert batch.documents_BT is not None
    assert batch.positions_BT is not None
    assert batch.documents_BT.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch.count == 6
    assert torch.equal(positions_in(batch.documents_BT), batch.positions_BT)
    masked = make_store([[1, 2, 3], [4, 5], [6, 7, 8, 9]], [None, [False, False], [False, True, False, True]])
    batch = PackedRows(masked, 8, 0).batch(0, 1)
    assert batch.ids_BT.tolist() == [[6, 7, 8, 1, 2, 0, 0, 0]]
    assert batch.labels_BT.tolist() == [[7, IGNORE, 9, 2, 3] + [IGNORE] * 3]
    assert batch.documents_BT is not None
    assert batch.documents_BT.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1]]
    assert batch.documents_BT.dtype == torch.int32


def test_epochs_and_seeds_differ(make_store: Callable[..., TokenStore]) -> None:
    """Another epoch or another seed is another order; a stream is cut at other places, too."""
    store = make_store([range(n * 10, n * 10 + 10) for n in range(100)])
    for kind, rows_class in KINDS.items():
        rows = rows_class(store, 30, 0)
        first, second = (rows.batch(epoch * rows.rows_per_epoch, rows.rows_per_epoch).ids_BT for epoch in (0, 1))
        other = rows_class(store, 30, 1).batch(0, rows.rows_per_epoch).ids_BT
        assert not torch.equal(first, second)
        assert not torch.equal(first, other)
        same = sorted(first.tolist()) == sorted(second.tolist())
        assert same == (kind != "stream")


def test_nothing_to_train_on_is_said(make_store: Callable[..., TokenStore]) -> None:
    """The message says how many documents there are, why none is left, and what to set."""
    late = make_store([range(50)] * 91, [[False] * 40 + [True] * 10] * 91)
    for rows_class in (PackedRows, PaddedRows):
        with pytest.raises(DataError, match=r"all 91 training documents: no turn .* fits in 32 tokens; .*sequence_len"):
            rows_class(late, 32, 0)
        assert rows_class(late, 40, 0).rows_per_epoch == 91
    never = make_store([range(50)] * 3, [[False] * 50] * 3)
    single = make_store([[1]] * 4)
    for rows_class in KINDS.values():
        with pytest.raises(DataError, match=r"all 3 training documents: no turn is trained on; .*data\.loss_on"):
            rows_class(never, 32, 0)
        with pytest.raises(DataError, match="all 4 training documents: none has two tokens"):
            rows_class(single, 2, 0)
    with pytest.raises(DataError, match="no training document"):
        PackedRows(make_store([]), 4, 0)
    with pytest.raises(DataError, match=r"1000 tokens, fewer than one row of 1000 .*sequence_length to at most 999"):
        StreamRows(make_store([range(1000)]), 1000, 0)
    assert StreamRows(make_store([range(1000)]), 999, 0).batch(5, 1).ids_BT.tolist() == [list(range(999))]


def test_rows_without_a_label_are_left_out_of_a_stream(make_store: Callable[..., TokenStore]) -> None:
    """Windows in which nothing counts are found before the first step, also where no mask says so, and counted."""
    chat = make_store([range(100)], [[False] * 35 + [True] * 5 + [False] * 60])
    assert StreamRows(chat, 10, 0).facts()["left_out_rows"] == 9
    assert labels_of(StreamRows(chat, 10, 0).batch(0, 1)) == Counter(range(35, 40))
    single = make_store([[n] for n in range(40)] + [range(40, 60)])
    rows = StreamRows(single, 10, 0)
    assert (rows.rows_per_epoch, rows.facts()["left_out_rows"]) == (2, 4)
    assert labels_of(rows.batch(0, 2)) == Counter(range(41, 60))


# --- held out --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(KINDS)), st.integers(0, 10**6), st.booleans(), st.integers(2, 30), st.integers(1, 7))
@settings(max_examples=80)
def test_held_out_labels_are_each_predicted_once(
    make_store: Callable[..., TokenStore], kind: Any, seed: int, masked: bool, length: int, rows: int
) -> None:
    """Every token of every source that counts, whatever the row length; padding and empty rows are none."""
    corpus = Corpus(make_store, seed, masked)
    wanted = corpus.labels(None if kind == "stream" else length)
    if not wanted:
        with pytest.raises(DataError, match=r"nothing held out can be measured: .*; or set data\.held_out=0"):
            HeldOut([corpus.store], kind, length)
        return
    held_out = HeldOut([corpus.store, make_store([]), corpus.store], kind, length)
    found: Counter[int] = Counter()
    for batch in held_out.batches(rows, None):
        check_batch(batch, corpus)
        assert len(batch.ids_BT) <= rows
        found += labels_of(batch)
    assert found == wanted + wanted
    assert held_out.tokens == 2 * len(corpus.owner)
    assert held_out.facts()["documents"] == 2 * len(corpus.documents)


def test_a_limit_takes_its_share_of_each_source(make_store: Callable[..., TokenStore]) -> None:
    """About as many positions as asked for, from each source in proportion, and no more than there are."""
    large, little = make_store([range(1000)]), make_store([range(2000, 2100)])
    counts = [int(batch.count) for batch in HeldOut([large], "stream", 10).batches(4, 95)]
    assert sum(counts) == 100
    found: Counter[int] = Counter()
    for batch in HeldOut([large, little], "stream", 10).batches(4, 220):
        found += labels_of(batch)
    assert found == Counter([*range(1, 201), *range(2001, 2021)])
    every = sum(batch.count for batch in HeldOut([large, little], "stream", 10).batches(4, 10**9))
    assert every == 999 + 99


def test_a_source_that_cannot_be_evaluated_is_counted(make_store: Callable[..., TokenStore]) -> None:
    """Where one source has nothing to predict the others are read, and the facts say what is missing."""
    untrained = make_store([range(9)] * 4, [[False] * 9] * 4)
    facts = HeldOut([make_store([range(20)]), untrained], "best-fit", 8).facts()
    assert facts["documents"] == 5
    assert facts["left_out_documents"] == 4
    assert facts["left_out_tokens"] == 36


def test_streams_of_randomness_are_unrelated() -> None:
    """Seeds for other uses, and of other runs, differ."""
    seeds = {stream_seed(seed, use) for seed in range(50) for use in ("order", "weights", 1)}
    assert len(seeds) == 150
