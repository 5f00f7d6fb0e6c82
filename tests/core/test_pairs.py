"""Preference pairs in data: encoded as two chats of one prompt, never parted or cut, and counted where left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx import DataError, Registry
from llmx.data import prepare as preparing
from llmx.data.encode import Encoded, Encoder, LossMask
from llmx.data.mixing import MixedRows
from llmx.data.rows import HeldOut, rows_of
from llmx.data.split import Split
from llmx.data.store import TokenStore, read_manifest
from llmx.protocols import IGNORE, Batch, Document, Message
from llmx.recipe import Part
from llmx.testing.chats import ChatTokenizer

MakeStore = Callable[..., TokenStore]
USER, YES, NO = Message("user", "Is it?"), Message("assistant", "Yes."), Message("assistant", "No, not at all.")


def encoder_of(*, pairs: bool, **mask: Any) -> Encoder:
    offer = Registry().find("template", "llmx:chatml")
    tokenizer = ChatTokenizer(Part("chatml", offer, offer.component.options()).build(None).specials)
    template = Part("chatml", offer, offer.component.options()).build(tokenizer)
    return Encoder(tokenizer, template, LossMask(**mask), pairs=pairs)


def pair(better: Sequence[Message], worse: Sequence[Message], shared: int | None = None) -> Document:
    return Document("", "pairs.jsonl:1", tuple(better), rejected=tuple(worse), shared=shared)


def sides(encoded: Encoded) -> list[tuple[list[int], list[bool]]]:
    assert encoded.trained is not None
    cut = encoded.boundary
    return [(encoded.ids[part].tolist(), encoded.trained[part].tolist()) for part in (slice(0, cut), slice(cut, None))]


# --- encoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse", "shared", "alone"),
    [
        ([USER, YES], [NO], None, [USER, NO]),
        ([USER, NO, USER, YES], [NO], None, [USER, NO, USER, NO]),
        ([USER, evolve(NO, loss=True), USER, YES], [NO], None, [USER, NO, USER, NO]),
        ([USER, YES], [NO, USER, NO], 1, [USER, NO, USER, NO]),
    ],
)
def test_both_sides_are_encoded_as_chats_of_their_own(
    better: list[Message], worse: list[Message], shared: int | None, alone: list[Message]
) -> None:
    """With the ids that each has alone, and marks on nothing but what answers the prompt they share."""
    encoded = encoder_of(pairs=True)([pair(better, worse, shared)])[0]
    first = len(better) - 1 if shared is None else shared
    for (ids, trained), messages in zip(sides(encoded), (better, alone), strict=True):
        silent = [
            evolve(each, loss=number >= first and each.role == "assistant") for number, each in enumerate(messages)
        ]
        wanted = encoder_of(pairs=False)([Document("", "x", tuple(silent))])[0]
        assert wanted.trained is not None
        assert (ids, trained) == (wanted.ids.tolist(), wanted.trained.tolist())
        assert any(trained)


def test_what_is_no_pair_predicts_nothing() -> None:
    """A text, a chat without a worse answer: two documents of one token."""
    for document in (Document("Once.", "a.txt"), Document("", "b.jsonl:1", (USER, YES))):
        assert sides(encoder_of(pairs=True)([document])[0]) == [([0], [False])] * 2


def test_pairs_are_in_the_key_of_the_cache() -> None:
    """And other preparations keep the key they had."""
    assert encoder_of(pairs=True).identity() == {**encoder_of(pairs=False).identity(), "pairs": True}
    assert "pairs" not in encoder_of(pairs=False).identity()


# --- the store -------------------------------------------------------------------------------------------------------


class Pairs:
    """A corpus of pairs whose sides have many lengths; every fifth document is none."""

    def __init__(self, count: int) -> None:
        self.documents = [self._document(number) for number in range(count)]

    def _document(self, number: int) -> Document:
        chat = (Message("user", f"{number}?"), Message("assistant", "y" * (1 + number % 7)))
        worse = () if number % 5 == 4 else (Message("assistant", "n" * (1 + number % 11)),)
        return Document("", f"pairs.jsonl:{number}", chat, rejected=worse)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def fingerprint(self) -> str:
        return repr(self.documents)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_prepared_pair_is_two_neighbours_of_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Of every split, in the order of the corpus, whoever encodes."""
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path))
    monkeypatch.setattr(preparing, "SHARD_TOKENS", 300)
    encoder = encoder_of(pairs=True)
    corpus = Pairs(50)
    folder = preparing.prepare(corpus, Split(0.2), encoder, "hash", workers=workers, report=lambda _: None)
    shards = [shard for split in read_manifest(folder)["splits"].values() for shard in split["shards"]]
    assert len(shards) > 4
    assert all(shard["documents"] % 2 == 0 for shard in shards)
    for split in ("train", "val"):
        store = TokenStore(folder, split)
        wanted = [encoder([each])[0] for name, each in Split(0.2)(corpus) if name == split]
        assert store.pairs
        assert store.documents == 2 * len(wanted) > 0
        for number, encoded in enumerate(wanted):
            for side, (ids, trained) in enumerate(sides(encoded)):
                found, marks = store.document(2 * number + side)
                assert found.tolist() == ids
                assert marks is not None
                assert marks.tolist() == trained


# --- rows ------------------------------------------------------------------------------------------------------------


def a_store(make_store: MakeStore, sizes: Sequence[tuple[int, int]], *, lame: Sequence[int] = ()) -> TokenStore:
    """A store of pairs with sides of these lengths, of ids that each occur once; all but a side's first is trained on.

    Of the pairs in `lame` the worse side has no trained token.
    """
    documents, masks, at = [], [], 0
    for number, both in enumerate(sizes):
        for side, size in enumerate(both):
            documents.append(range(at, at + size))
            masks.append([place > 0 and not (side and number in lame) for place in range(size)])
            at += size
    store = make_store(documents, masks, shard_tokens=10**6)
    store.pairs = True
    return store


def found_pairs(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the tokens of both sides of each pair of a batch, having seen that each is whole and alone."""
    assert batch.documents_BT is not None
    assert batch.positions_BT is not None
    for row in range(len(batch.ids_BT)):
        numbers = sorted(set(batch.documents_BT[row].tolist()) - {-1})
        assert numbers == list(range(len(numbers)))
        assert len(numbers) % 2 == 0
        read = []
        for number in numbers:
            at = (batch.documents_BT[row] == number).nonzero()[:, 0]
            assert at.tolist() == list(range(int(at[0]), int(at[-1]) + 1))
            assert batch.positions_BT[row, at].tolist() == list(range(len(at)))
            last = int(batch.labels_BT[row, at[-1]])
            read.append([*batch.ids_BT[row, at].tolist(), *([] if last == IGNORE else [last])])
        yield from zip(read[0::2], read[1::2], strict=True)


@given(
    st.lists(st.tuples(st.integers(2, 12), st.integers(2, 12)), min_size=1, max_size=30),
    st.integers(4, 24),
    st.sampled_from(["auto", "best-fit", "none"]),
    st.integers(0, 99),
)
@settings(max_examples=120)
def test_rows_hold_whole_pairs(
    make_store: MakeStore, sizes: list[tuple[int, int]], length: int, packing: Any, seed: int
) -> None:
    """Each that fits is in one row an epoch, its sides side by side; others are left out and counted."""
    store = a_store(make_store, sizes, lame=[3])
    fits = [n for n, both in enumerate(sizes) if sum(both) - 2 <= length and n != 3]
    if not fits:
        with pytest.raises(DataError, match="training documents: no"):
            rows_of(store, packing, length, seed)
        return
    wanted = Counter()  # type: ignore[var-annotated]
    for number in fits:
        both = tuple(tuple(store.document(2 * number + side)[0].tolist()) for side in (0, 1))
        wanted[both] += 1
    rows = rows_of(store, packing, length, seed)
    whole = [rows.batch(0, rows.rows_per_epoch), *HeldOut([store], packing, length).batches(10**6, None)]
    for batch in whole:
        assert Counter((tuple(better), tuple(worse)) for better, worse in found_pairs(batch)) == wanted
        assert packing != "none" or len(batch.ids_BT) == len(fits)
    facts = rows.facts()
    out = [n for n in range(len(sizes)) if n not in fits]
    assert facts["left_out_documents"] == 2 * len(out)
    assert facts["left_out_tokens"] == sum(sum(sizes[n]) for n in out)
    assert facts["padding"] == facts["positions"] - sum(sum(sizes[n]) - 2 for n in fits)


def test_pairs_that_fit_together_share_a_row(make_store: MakeStore) -> None:
    """Packed they take a quarter of the rows."""
    store = a_store(make_store, [(5, 5)] * 40)
    assert [rows_of(store, packing, 32, 0).rows_per_epoch for packing in ("auto", "none")] == [10, 40]


def test_sources_of_pairs_are_mixed_with_their_documents(make_store: MakeStore) -> None:
    """A row of one source holds whole pairs beside a row of the other."""
    sources = [(rows_of(a_store(make_store, [(3, 4)] * n), "auto", 16, 0), 1.0) for n in (9, 6)]
    batch = MixedRows(sources, 0).batch(0, 5)
    assert all(sorted(map(len, both)) == [3, 4] for both in found_pairs(batch))
    assert len(list(found_pairs(batch))) > 5


def test_what_is_wrong_with_pairs_is_said(make_store: MakeStore) -> None:
    """No pair at all, none that fits, packing that would cut them."""
    none = make_store([[0], [0]] * 3, [[False], [False]] * 3)
    none.pairs = True
    with pytest.raises(DataError, match=r"all 3 training documents: none is a preference pair, .*chosen and rejected"):
        rows_of(none, "auto", 16, 0)
    store = a_store(make_store, [(9, 9)] * 4)
    with pytest.raises(
        DataError, match=r"all 4 training documents: no preference pair fits in 15 tokens .*sequence_len"
    ):
        rows_of(store, "auto", 15, 0)
    assert rows_of(store, "auto", 16, 0).rows_per_epoch == 4
    with pytest.raises(DataError, match=r'data\.packing = "stream": cuts documents'):
        rows_of(store, "stream", 16, 0)
    with pytest.raises(DataError, match=r"nothing held out can be measured: .*no preference pair fits"):
        HeldOut([store], "auto", 15)


# --- from records ----------------------------------------------------------------------------------------------------


def test_sides_of_unequal_turns_say_where_they_part(tmp_path: Path) -> None:
    """A record whose worse side goes on longer is read so that both have their own prompt."""
    worse = [{"role": m.role, "content": m.content} for m in (USER, NO, USER, NO)]
    better = [{"role": m.role, "content": m.content} for m in (USER, YES)]
    (tmp_path / "p.jsonl").write_text(json.dumps({"chosen": better, "rejected": worse}) + "\n")
    offer = Registry().find("dataset", "llmx:jsonl")
    document = next(iter(Part("jsonl", offer, offer.component.options(path=str(tmp_path / "p.jsonl"))).build()))
    assert document.messages[: document.shared_turns] == (USER,)
    assert document.rejected == (NO, USER, NO)
