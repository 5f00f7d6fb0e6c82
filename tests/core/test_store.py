"""Tokens on disk: what is written comes back, and what is altered is found."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from llmx import DataError, files
from llmx.data import store
from llmx.data.store import ShardWriter, TokenStore


def write_store(
    folder: Path,
    texts: Sequence[Sequence[int]],
    masks: Sequence[Sequence[bool] | None] | None = None,
    shard_tokens: int = 10**6,
    vocab_size: int = 70_000,
) -> TokenStore:
    """A store of these documents, in shards of about `shard_tokens`."""
    folder.mkdir(parents=True, exist_ok=True)
    writers = {name: ShardWriter(folder, name, vocab_size) for name in ("train", "val")}
    for ids, trained in zip(texts, masks or [None] * len(texts), strict=True):
        writers["train"].add(ids, len(ids), trained)
        if writers["train"].waiting_tokens >= shard_tokens:
            writers["train"].flush()
    for writer in writers.values():
        writer.flush()
    splits = {name: writer.summary() for name, writer in writers.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": store.FORMAT, "splits": splits}))
    return TokenStore(folder, "train")


def random_texts(count: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 50, (count,), generator=generator).tolist()
    return [torch.randint(70_000, (n,), generator=generator).tolist() for n in lengths]


def test_tokens_come_back_across_shards(tmp_path: Path) -> None:
    """Any window reads as the concatenation of the documents, with their numbers, over shard borders too."""
    texts = random_texts()
    tokens = write_store(tmp_path, texts, shard_tokens=100)
    assert len(list(tmp_path.glob("train-*.arrow"))) > 5
    ids = [token for text in texts for token in text]
    numbers = [number for number, text in enumerate(texts) for _ in text]
    assert (tokens.tokens, tokens.predicted, tokens.masked) == (len(ids), len(ids) - len(texts), False)
    for start in range(0, len(ids) - 130, 17):
        read, where, trained = tokens.read(start, 130)
        assert trained is None
        assert read.tolist() == ids[start : start + 130]
        assert where.tolist() == numbers[start : start + 130]


def test_documents_come_back_one_by_one(tmp_path: Path) -> None:
    """`document` and `lengths` tell the documents as they were given, whichever shard they are in."""
    texts = random_texts()
    tokens = write_store(tmp_path, texts, shard_tokens=100)
    assert tokens.lengths().tolist() == [len(text) for text in texts]
    assert tokens.lengths().dtype == np.int32
    assert [tokens.document(number)[0].tolist() for number in range(len(texts))] == texts
    assert TokenStore(tmp_path, "val").lengths().tolist() == []


def test_masks_come_back_and_are_counted(tmp_path: Path) -> None:
    """Documents with and without a mask share a store; only trained tokens after a document's first are predicted."""
    texts = random_texts()
    generator = torch.Generator().manual_seed(1)
    masks = [
        None if number % 3 == 0 or number > 30 else torch.randint(2, (len(text),), generator=generator).bool().tolist()
        for number, text in enumerate(texts)
    ]
    tokens = write_store(tmp_path, texts, masks, shard_tokens=100)
    full = [[True] * len(text) if mask is None else mask for text, mask in zip(texts, masks, strict=True)]
    flat = [mark for mask in full for mark in mask]
    shards = json.loads((tmp_path / "manifest.json").read_text())["splits"]["train"]["shards"]
    assert {shard["masked"] for shard in shards} == {True, False}  # the last ones hold no mask, and no column for it
    assert tokens.masked
    assert tokens.predicted == sum(sum(mask[1:]) for mask in full)
    for start in range(0, len(flat) - 130, 17):
        trained = tokens.read(start, 130)[2]
        assert trained is not None
        assert trained.tolist() == flat[start : start + 130]
    for number, mask in enumerate(full):
        trained = tokens.document(number)[1]
        assert trained is not None
        assert trained.tolist() == mask


@pytest.mark.parametrize(("vocab_size", "size"), [(2**16, 2), (2**16 + 1, 4)])
def test_ids_take_as_few_bytes_as_the_vocabulary_needs(tmp_path: Path, vocab_size: int, size: int) -> None:
    """Up to 65,536 ids take two bytes each; the largest id comes back."""
    tokens = write_store(tmp_path, [[0, vocab_size - 1] * 50_000], vocab_size=vocab_size)
    assert tokens.read(0, 2)[0].tolist() == [0, vocab_size - 1]
    bytes_each = (tmp_path / "train-00000.arrow").stat().st_size / 100_000
    assert size <= bytes_each < size * 1.1


@pytest.mark.parametrize("wrong", [300, -1])
def test_an_id_outside_the_vocabulary_is_no_other_token(tmp_path: Path, wrong: int) -> None:
    """What does not fit the type of the shard stops, and is not cut to another id."""
    with pytest.raises(DataError, match=rf"the id {wrong}, outside its vocabulary of 300 ids"):
        write_store(tmp_path, [[1, 2], [3, wrong]], vocab_size=300)


def alter(path: Path) -> None:
    """Flip one bit in the middle of a file, and put its time of change back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_altered_shard_is_found(tmp_path: Path) -> None:
    """One flipped bit in a shard stops the run with the file's name; so does a shard that is gone."""
    write_store(tmp_path, [[1, 2, 3]])
    store.verify(tmp_path)
    alter(tmp_path / "train-00000.arrow")
    with pytest.raises(DataError, match=r"train-00000\.arrow: missing or altered"):
        store.verify(tmp_path)
    (tmp_path / "train-00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train-00000\.arrow: missing or altered"):
        store.verify(tmp_path)


def test_a_store_is_hashed_once_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look reads no shard, unless every byte is asked for; a change is found all the same."""
    write_store(tmp_path, [[1, 2, 3]])
    hashed: list[str] = []
    real = store.file_sha256
    monkeypatch.setattr(store, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    store.verify(tmp_path)
    store.verify(tmp_path)
    assert hashed == ["train-00000.arrow"] * 2  # too young to be believed by its times
    monkeypatch.setattr(store, "SETTLED_S", 0.0)
    time.sleep(0.01)
    store.verify(tmp_path)
    store.verify(tmp_path)
    assert len(hashed) == 3
    store.verify(tmp_path, every_byte=True)
    assert len(hashed) == 4
    time.sleep(0.01)
    alter(tmp_path / "train-00000.arrow")
    with pytest.raises(DataError, match="missing or altered"):
        store.verify(tmp_path)


def test_what_was_verified_may_be_lost_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of the last comparison is a shortcut: without it, or with rubbish in it, all is compared."""
    monkeypatch.setattr(store, "SETTLED_S", 0.0)
    write_store(tmp_path, [[1, 2, 3]])
    for rubbish in ("", "[1]", '{"train-00000.arrow": 3}', "\x00"):
        (tmp_path / store.VERIFIED).write_text(rubbish)
        store.verify(tmp_path)
    alter(tmp_path / "train-00000.arrow")
    (tmp_path / store.VERIFIED).write_text("{")
    with pytest.raises(DataError, match="missing or altered"):
        store.verify(tmp_path)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_what_was_verified_need_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A disk that takes nothing more costs the shortcut alone, and nothing half written stays."""
    write_store(tmp_path, [[1, 2, 3]])
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(store, "SETTLED_S", -60.0)

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC if how == "full" else errno.EROFS, "no", str(path))

    monkeypatch.setattr(files, "fsync", refuse)
    store.verify(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before
    alter(tmp_path / "train-00000.arrow")
    with pytest.raises(DataError, match="missing or altered"):
        store.verify(tmp_path)


DAMAGED = ["[]", "3", "{}", '{"format": 2}', '{"format": 2, "splits": []}', '{"format": 2, "splits": {"train": {}}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    """JSON that is no manifest, or half of one, names the file and what to do."""
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: is damaged .*; delete the folder and prepare again"):
        store.read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["tokens", "masked", "shards"])
def test_a_manifest_that_lacks_a_fact_is_damaged(tmp_path: Path, name: str) -> None:
    """All that a store is opened with must be there, of every split and shard."""
    write_store(tmp_path, [[1, 2, 3]])
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    assert store.read_manifest(tmp_path) == whole
    del whole["splits"]["val"][name]
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="is damaged"):
        store.read_manifest(tmp_path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    """A cache entry of another version is not read as if it were ours, nor is one that is cut short."""
    (tmp_path / "manifest.json").write_text('{"format": 1, "splits": {}}')
    with pytest.raises(DataError, match=r"format 1, this llmx reads 2"):
        store.read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 2, "spl')
    with pytest.raises(DataError, match="cannot be read"):
        store.read_manifest(tmp_path)
