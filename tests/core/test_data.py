"""Data: who is held out, what is on disk, and in which order it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx import DataError
from llmx.data import batches, prepare, split, store
from llmx.data.batches import TrainingRows, held_out_batches, make_batch
from llmx.data.split import Split
from llmx.data.store import ShardWriter, TokenStore
from llmx.protocols import IGNORE, Document


def documents(count: int, words: int = 20) -> list[Document]:
    return [Document(" ".join(f"w{n}x{i}" for i in range(words)), f"{n}") for n in range(count)]


def write_store(folder: Path, texts: list[list[int]], shard_tokens: int = 10**6) -> TokenStore:
    """A store of these documents, in shards of about `shard_tokens`."""
    folder.mkdir(parents=True, exist_ok=True)
    writers = {name: ShardWriter(folder, name, 70_000) for name in ("train", "val")}
    for ids in texts:
        writers["train"].add(ids, len(ids))
        if writers["train"]._tokens >= shard_tokens:
            writers["train"].flush()
    for writer in writers.values():
        writer.flush()
    splits = {name: writer.summary() for name, writer in writers.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": store.FORMAT, "splits": splits}))
    return TokenStore(folder, "train")


# --- split ----------------------------------------------------------------------------------------------------------


@given(st.integers(20, 400), st.floats(0.05, 0.5))
@settings(max_examples=30, deadline=None)
def test_every_document_is_in_one_split_and_both_have_some(count: int, held_out: float) -> None:
    """Nothing is lost, doubled or in both, whatever the corpus and the share."""
    dealt = list(Split(held_out)(documents(count)))
    assert [text for _, text in dealt] == [document.text for document in documents(count)]
    assert {name for name, _ in dealt} == {"train", "val"}


def test_a_document_keeps_its_split_when_others_come() -> None:
    """The hash of its text decides, not its place or its neighbours."""
    few, many = documents(500), documents(1000)
    before = {text: name for name, text in Split(0.05)(few)}
    after = {text: name for name, text in Split(0.05)(reversed(many))}
    assert before.items() <= after.items()
    assert 0.02 < sum(name == "val" for name in after.values()) / 1000 < 0.08


def test_equal_documents_share_a_split() -> None:
    """A copy of a training document is never held out."""
    twice = documents(100) + documents(100)
    dealt = [name for name, _ in Split(0.2)(twice)]
    assert dealt[:100] == dealt[100:]


def test_the_end_of_few_documents_is_held_out() -> None:
    """One long text gives its last part, cut where a line ends, and nothing is lost."""
    text = "\n".join(f"line {i} of the text" for i in range(1000))
    (first, train), (second, val) = Split(0.05)([Document(text, "t")])
    assert (first, second) == ("train", "val")
    assert train + val == text
    assert train.endswith("\n")
    assert 0.03 < len(val) / len(text) < 0.05


def test_a_text_of_one_paragraph_is_cut_all_the_same() -> None:
    """A line that never ends leaves something to hold out."""
    (_, train), (_, val) = Split(0.05)([Document("word " * 6000 + "\n", "t")])
    assert 0.03 < len(val) / 30_000 <= 0.05
    assert train + val == "word " * 6000 + "\n"


def test_no_share_holds_out_nothing() -> None:
    """`data.held_out = 0` trains on everything."""
    assert {name for name, _ in Split(0)(documents(50))} == {"train"}


def test_cut_point_never_leaves_the_text() -> None:
    """Without lines or words the share itself is the cut."""
    assert split.cut_point("a" * 100, 0.5) == 50
    assert split.cut_point("", 0.5) == 0


# --- store ----------------------------------------------------------------------------------------------------------


def test_tokens_come_back_across_shards(tmp_path: Path) -> None:
    """Any window reads as the concatenation of the documents, with their numbers, over shard borders too."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(70_000, (int(n),), generator=generator).tolist() for n in torch.randint(1, 50, (40,))]
    tokens = write_store(tmp_path, texts, shard_tokens=100)
    assert len(list(tmp_path.glob("train-*.arrow"))) > 5
    ids = [token for text in texts for token in text]
    numbers = [number for number, text in enumerate(texts) for _ in text]
    assert tokens.tokens == len(ids)
    for start in range(0, len(ids) - 130, 17):
        read, where = tokens.read(start, 130)
        assert read.tolist() == ids[start : start + 130]
        assert where.tolist() == numbers[start : start + 130]


def test_an_altered_shard_is_found(tmp_path: Path) -> None:
    """One flipped byte in a shard stops the run with the file's name."""
    write_store(tmp_path, [[1, 2, 3]])
    store.verify(tmp_path)
    path = tmp_path / "train-00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-00000\.arrow: missing or altered"):
        store.verify(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    """A cache entry of another version is not read as if it were ours."""
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99"):
        store.read_manifest(tmp_path)


# --- prepare --------------------------------------------------------------------------------------------------------


class Words:
    """A dataset of the given texts."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([Document(text, str(i)) for i, text in enumerate(self.texts)])

    def fingerprint(self) -> str:
        return repr(self.texts)


class Bytes:
    """UTF-8 bytes, with 256 to begin and 257 to end."""

    vocab_size, bos_id, eos_id = 258, 256, 257

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


def test_prepared_tokens_are_the_documents_between_their_marks() -> None:
    """Each document is its own ids between bos and eos; blank ones are left out; counts are right."""
    texts = [f"text number {i}" for i in range(30)] + ["  \n", ""]
    folder = prepare.prepare(Words(texts), Split(0), Bytes(), "hash")
    tokens = TokenStore(folder, "train")
    assert tokens.documents == 30
    ids = tokens.read(0, tokens.tokens)[0].tolist()
    assert ids == [token for text in texts[:30] for token in (256, *text.encode(), 257)]
    assert tokens.text_bytes == sum(len(text) for text in texts[:30])


def test_the_cache_is_hit_only_by_the_same_data() -> None:
    """Same corpus, split and tokenizer: same folder; any other: another one."""
    texts = [f"cache {i}" for i in range(30)]
    first = prepare.prepare(Words(texts), Split(0.1), Bytes(), "hash")
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert prepare.prepare(Words(texts), Split(0.1), Bytes(), "hash") == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
    others = {
        prepare.prepare(Words(texts[1:]), Split(0.1), Bytes(), "hash"),
        prepare.prepare(Words(texts), Split(0.2), Bytes(), "hash"),
        prepare.prepare(Words(texts), Split(0.1), Bytes(), "other"),
    }
    assert len(others | {first}) == 4


def test_a_failed_preparation_leaves_nothing() -> None:
    """A corpus without text is an error, and no folder is half written."""
    with pytest.raises(DataError, match="no text to train on"):
        prepare.prepare(Words([" "]), Split(0), Bytes(), "hash")
    assert not list((prepare.cache_root() / "tokens").glob(".tmp-*"))


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """One document of 1000 tokens 0, 1, 2, …"""
    return write_store(tmp_path_factory.mktemp("numbered"), [list(range(1000))])


@given(st.integers(0, 5), st.integers(2, 60), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_reads_every_window_once(numbered: TokenStore, seed: int, length: int, epoch: int) -> None:
    """The rows of an epoch are disjoint, whole, and cover all but less than two rows."""
    rows = TrainingRows(numbered, length, seed)
    count = rows.rows_per_epoch
    batch = rows.batch(epoch * count, count)
    ids = batch.ids_BT.flatten().tolist()
    assert len(set(ids)) == len(ids) == count * length
    assert len(ids) > 1000 - 2 * length - 1
    assert torch.equal(batch.labels_BT, batch.ids_BT + 1)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_order_is_a_function_of_the_position(numbered: TokenStore, data: st.DataObject) -> None:
    """However the positions are cut into batches, and by whom, each position is the same row."""
    seed = data.draw(st.integers(0, 3))
    start, total = data.draw(st.integers(0, 500)), data.draw(st.integers(1, 40))
    whole = TrainingRows(numbered, 7, seed).batch(start, total).ids_BT
    cut = data.draw(st.integers(1, total))
    again = TrainingRows(numbered, 7, seed)
    parts = [again.batch(start + i, min(cut, total - i)).ids_BT for i in range(0, total, cut)]
    assert torch.equal(whole, torch.cat(parts))


def test_epochs_and_seeds_differ(numbered: TokenStore) -> None:
    """Another epoch or another seed is another order, cut at other places."""
    rows = TrainingRows(numbered, 10, 0)
    first = rows.batch(0, rows.rows_per_epoch).ids_BT
    second = rows.batch(rows.rows_per_epoch, rows.rows_per_epoch).ids_BT
    other = TrainingRows(numbered, 10, 1).batch(0, rows.rows_per_epoch).ids_BT
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_label_crosses_a_document(tmp_path: Path) -> None:
    """The last token of a document predicts nothing; positions and numbers restart with each document."""
    tokens = write_store(tmp_path, [[1, 2, 3], [4, 5], [6, 7, 8, 9]])
    batch = make_batch([tokens.read(0, 9)], 8, mixed=True)
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch.labels_BT.tolist() == [[2, 3, IGNORE, 5, IGNORE, 7, 8, 9]]
    assert batch.documents_BT is not None
    assert batch.positions_BT is not None
    assert batch.documents_BT.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch.count == 6


def test_held_out_tokens_are_each_predicted_once(numbered: TokenStore) -> None:
    """Every token but the first is a label exactly once, whatever the row length; padding is none."""
    for length in (7, 64, 999, 2000):
        labels = torch.cat([batch.labels_BT.flatten() for batch in held_out_batches(numbered, length, 3, None)])
        assert sorted(labels[labels != IGNORE].tolist()) == list(range(1, 1000))
    limited = list(held_out_batches(numbered, 10, 4, 95))
    assert sum(batch.count for batch in limited) == 100


def test_a_corpus_shorter_than_a_row_is_refused(numbered: TokenStore) -> None:
    """The message says how many tokens there are and what to set."""
    with pytest.raises(DataError, match=r"1000 tokens, fewer than one row of 1000 .*sequence_length to at most 999"):
        TrainingRows(numbered, 1000, 0)
    assert TrainingRows(numbered, 999, 0).batch(5, 1).ids_BT.tolist() == [list(range(999))]


def test_streams_of_randomness_are_unrelated() -> None:
    """Seeds for other uses, and of other runs, differ."""
    seeds = {batches.stream_seed(seed, use) for seed in range(50) for use in ("order", "weights", 1)}
    assert len(seeds) == 150
