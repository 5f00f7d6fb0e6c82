"""Preparation: the same bytes however it is done, killed or not, and nothing half in the cache."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmx import DataError, LlmxError, PluginError, progress
from llmx.api import layers_of
from llmx.cli import main
from llmx.corpora import new_corpora
from llmx.data import blocks, engine, journal, prepare, workers
from llmx.data.encode import Encoder, LossMask
from llmx.data.prepare import Prepared, prepared
from llmx.data.split import Split
from llmx.data.store import TokenStore, file_sha256
from llmx.errors import MissingPackageError, RecipeError
from llmx.protocols import Document, Message
from llmx.recipe import Recipe
from llmx_tokenizers import CharOptions
from llmx_tokenizers.char import CharTokenizer

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
CHILD = Path(__file__).with_name("preparing.py")


class Words:
    """A dataset of the given documents; texts stand for themselves."""

    def __init__(self, given: Sequence[str | Document]) -> None:
        self.documents = [Document(d, str(i)) if isinstance(d, str) else d for i, d in enumerate(given)]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def fingerprint(self) -> str:
        return repr(self.documents)


class Bytes:
    """UTF-8 bytes, with 256 to begin and 257 to end. It has no files, so it cannot be sent to another process."""

    vocab_size, bos_id, eos_id = 258, 256, 257

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


def plain(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, None, LossMask(("assistant",), "all"))


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of one to sixty words."""
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randint(0, 999)}" for _ in range(draw.randint(1, 60))) for _ in range(count)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; returns the folder of the stores in it."""
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and blocks so small that a small corpus has many, and workers from the first block on."""
    monkeypatch.setattr(prepare, "SHARD_TOKENS", 5_000)
    monkeypatch.setattr(blocks, "BLOCK_CHARS", 2_000)
    monkeypatch.setattr(engine, "START_CHARS", 0)
    monkeypatch.setattr(engine, "MOST_THREADS", 1)


def shards(folder: Path) -> dict[str, str]:
    """SHA-256 of every shard of a store, by name, as they are on the disk now."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.arrow"))}


# --- what is in a store ---------------------------------------------------------------------------------------------


def test_prepared_tokens_are_the_documents_between_their_marks(cache: Path) -> None:
    """Each document is its own ids between bos and eos; blank ones are left out; counts are right."""
    given = [f"text number {i}" for i in range(30)]
    folder = prepare.prepare(Words([*given, "  \n", ""]), Split(0), plain(Bytes()), "hash")
    tokens = TokenStore(folder, "train")
    assert (folder.parent, tokens.documents) == (cache, 30)
    ids = tokens.read(0, tokens.tokens)[0].tolist()
    assert ids == [token for text in given for token in (256, *text.encode(), 257)]
    assert tokens.text_bytes == sum(len(text) for text in given)


@pytest.mark.usefixtures("cache", "tiny")
def test_documents_keep_their_order_and_their_split_over_many_shards() -> None:
    """A store is what a plain loop over the split would give, shard after shard."""
    given, split = texts(400), Split(0.2)
    folder = prepare.prepare(Words(given), split, plain(Bytes()), "hash")
    assert len(shards(folder)) > 10
    for name in ("train", "val"):
        store = TokenStore(folder, name)
        wanted = [document.text for dealt, document in split(Words(given)) if dealt == name]
        found = [bytes(store.document(n)[0].tolist()[1:-1]).decode() for n in range(store.documents)]
        assert found == wanted


@pytest.mark.usefixtures("cache")
def test_the_cache_is_hit_only_by_the_same_data() -> None:
    """Same corpus, split, tokenizer and mask: same folder, not written again; any other: another one."""
    given = [f"cache {i}" for i in range(30)]
    encoder = plain(Bytes())
    first = prepared(Words(given), Split(0.1), encoder, "hash")
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert first.made
    assert prepared(Words(given), Split(0.1), encoder, "hash") == Prepared(first.folder, made=False)
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    others = {
        prepare.prepare(Words(given[1:]), Split(0.1), encoder, "hash"),
        prepare.prepare(Words(given), Split(0.2), encoder, "hash"),
        prepare.prepare(Words(given), Split(0.1), encoder, "other"),
        prepare.prepare(Words(given), Split(0.1), Encoder(Bytes(), None, LossMask(("user",), "all")), "hash"),  # type: ignore[arg-type]
        prepare.prepare(Words(given), Split(0.1), Encoder(Bytes(), None, LossMask(("assistant",), "last")), "hash"),  # type: ignore[arg-type]
    }
    assert len(others | {first.folder}) == 6


# --- the same bytes however it is done ------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_bytes_depend_on_neither_workers_nor_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process, two, and blocks of another size write the same shards."""
    given = texts(300)
    encoder = plain(CharTokenizer.build(CharOptions(), given))
    started: list[int] = []
    real = workers.WorkerPool.__init__
    monkeypatch.setattr(workers.WorkerPool, "__init__", lambda s, e, count: started.append(count) or real(s, e, count))
    found = []
    for number, (count, chars) in enumerate([(1, 2_000), (2, 2_000), (2, 700), (1, 10**6)]):
        monkeypatch.setenv("LLMX_CACHE", str(tmp_path / str(number)))
        monkeypatch.setattr(blocks, "BLOCK_CHARS", chars)
        found.append(shards(prepare.prepare(Words(given), Split(0.1), encoder, "hash", workers=count)))
    assert started == [2, 2]
    assert len(found[0]) > 10
    assert found == [found[0]] * 4
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("cache", "tiny")
def test_a_tokenizer_that_cannot_be_sent_stays_here(capsys: pytest.CaptureFixture[str]) -> None:
    """Without save and load it encodes in one process, which is said, and the tokens are whole."""
    folder = prepare.prepare(Words(texts(50)), Split(0), plain(Bytes()), "hash", workers=2)
    assert TokenStore(folder, "train").documents == 50
    assert "encoding in one process" in capsys.readouterr().err


class Nested(CharTokenizer):
    """Its files lie in a folder of its folder."""

    def save(self, folder: Path) -> None:
        (folder / "a" / "b").mkdir(parents=True)
        super().save(folder / "a" / "b")

    @classmethod
    def load(cls, folder: Path) -> CharTokenizer:
        return CharTokenizer.load(folder / "a" / "b")


def test_a_tokenizer_is_sent_with_its_folders() -> None:
    """What it saves below its folder is there in the other process too."""
    given = [Document("a text", "x")]
    encoder = plain(Nested.build(CharOptions(), ["a text"]))
    assert workers.Parcel.pack(encoder).unpack()(given)[0].ids.tolist() == encoder(given)[0].ids.tolist()


@pytest.mark.usefixtures("cache", "tiny")
def test_a_fault_in_a_worker_is_raised_here() -> None:
    """What a tokenizer raises in a worker ends preparation with its text and the worker's traceback."""
    given = texts(100)
    encoder = plain(CharTokenizer.build(CharOptions(), given))
    with pytest.raises(PluginError, match=r"(?s)tokenizer: \w+Error: .*Traceback .*encode_block"):
        prepare.prepare(Words([*given, "half a pair: \ud800"]), Split(0.1), encoder, "hash", workers=2)


@pytest.mark.usefixtures("cache", "tiny")
def test_a_dead_worker_is_told_and_costs_no_more_than_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that the system kills ends preparation with a line; the next one goes on."""
    given = texts(300)
    encoder = plain(CharTokenizer.build(CharOptions(), given))
    seen: list[int] = []

    def tell(chars: int) -> None:
        seen.append(chars)
        if len(seen) == 15:
            for process in pools[0]._processes:
                process.kill()

    pools: list[workers.WorkerPool] = []
    real = workers.WorkerPool.__init__
    monkeypatch.setattr(workers.WorkerPool, "__init__", lambda s, e, count: pools.append(s) or real(s, e, count))
    with pytest.raises(LlmxError, match=r"a worker process ended with code -9: .*--workers less; what is done is kept"):
        prepare.prepare(Words(given), Split(0.1), encoder, "hash", workers=2, report=tell)
    assert all(process.poll() is not None for process in pools[0]._processes)
    again = prepared(Words(given), Split(0.1), encoder, "hash", workers=1)
    assert again.made
    assert again.resumed_documents > 0


# --- stopped and begun again ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1.5 MB in 8,000 documents."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(texts(8_000, seed=1)), encoding="utf-8")
    return path


def start(corpus: Path, cache: Path, *arguments: object) -> subprocess.Popen[str]:
    """Begin a preparation in a process of its own, and of its own group."""
    command = [sys.executable, str(CHILD), str(corpus), *map(str, arguments)]
    pipe, environment = subprocess.PIPE, {**os.environ, "LLMX_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def wait_for_end_of(group: int) -> None:
    """Wait until no process of a group is left."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlived the process that started it")


def kill_and_compare(corpus: Path, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill preparations at random moments until there were enough kills, and compare what they come to.

    Returns:
        how many stores came to their end, and how many times one went on from an earlier one's shards.
    """
    began = time.monotonic()
    wanted = shards(Path(finish(start(corpus, folder / "whole", 1))["folder"]))
    whole_s = time.monotonic() - began
    assert len(wanted) > 20
    draw, counts, caches = random.Random(seed), {"stores": 0, "resumed": 0}, 0
    while kills > 0:
        caches += 1
        cache, killed = folder / f"cache-{caches}", 0
        while True:
            process = start(corpus, cache, draw.choice([1, 1, 2]))
            try:
                process.wait(draw.uniform(0.2, 1.0) * whole_s if kills > 0 else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills, killed = kills - 1, killed + 1
                process.communicate()
                wait_for_end_of(process.pid)
                continue
            done = finish(process)
            break
        assert shards(Path(done["folder"])) == wanted
        assert not list((cache / "tokens").glob(".part-*"))
        counts["stores"] += 1
        counts["resumed"] += done["resumed"] > 0
    return counts


def test_a_killed_preparation_ends_as_one_that_was_not(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL at five random moments: no document is lost or doubled, and no worker stays behind."""
    assert kill_and_compare(corpus, tmp_path, kills=5, seed=0)["stores"] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_kills(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL at a hundred random moments."""
    counts = kill_and_compare(corpus, tmp_path, kills=100, seed=1)
    with capsys.disabled():
        print(f"\n100 kills: {counts}")  # noqa: T201
    assert counts["resumed"] > 5


def stopped(count: int) -> Callable[[int], None]:
    """A report that stops preparation at the `count`th block."""
    seen: list[int] = []

    def tell(chars: int) -> None:
        seen.append(chars)
        if len(seen) == count:
            raise KeyboardInterrupt

    return tell


@pytest.mark.usefixtures("tiny")
def test_work_goes_on_behind_the_last_shard_that_is_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that was damaged after a stop is made again, with those that came after it, and nothing else is."""
    given, encoder = texts(300), plain(Bytes())
    with pytest.raises(KeyboardInterrupt) as stop:
        prepare.prepare(Words(given), Split(0.1), encoder, "hash", workers=1, report=stopped(15))
    (part,) = cache.glob(".part-*")
    steps = json.loads((part / journal.JOURNAL).read_text())["steps"]
    assert len(steps) > 3
    (note,) = stop.value.__notes__
    assert note == f"the same command goes on after the {steps[-1]['documents']} documents that are encoded"
    (part / "train-00001.arrow").write_bytes(b"damaged")
    (part / ".tmp-train-00099.arrow").write_bytes(b"half")
    resumed = prepared(Words(given), Split(0.1), encoder, "hash", workers=1)
    assert resumed.resumed_documents == steps[0]["documents"]
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "other"))
    assert shards(resumed.folder) == shards(prepare.prepare(Words(given), Split(0.1), encoder, "hash"))
    assert {path.name for path in resumed.folder.iterdir()} == {*shards(resumed.folder), "manifest.json"}


def test_who_stops_a_preparation_is_told_what_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the one line of the command, also where nothing is whole yet and nothing stays."""

    def interrupted(*_: Any, **__: Any) -> Any:
        return prepared(Words(texts(9)), Split(0.1), plain(Bytes()), "hash", report=stopped(1))

    monkeypatch.setattr(prepare, "prepared", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests go on in this process
    with pytest.raises(SystemExit) as done:
        main(["data", "prepare", "--tokenizer", "char", "data.limit=5"])
    assert done.value.code == 130
    said = "llmx: interrupted: no shard was whole yet, so the same command encodes from the beginning\n"
    assert capsys.readouterr().err.lstrip("\n") == said
    assert not list(cache.glob(".part-*"))


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a file is where the folder should be."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "file"))
    with pytest.raises(LlmxError, match=r"file.*: the cache cannot be written; set LLMX_CACHE to a folder that can"):
        prepare.prepare(Words(texts(9)), Split(0.1), plain(Bytes()), "hash")


@pytest.mark.usefixtures("tiny")
def test_an_unreadable_journal_begins_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not a journal is told and not believed."""
    given, encoder = texts(300), plain(Bytes())
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(Words(given), Split(0.1), encoder, "hash", workers=1, report=stopped(15))
    (part,) = cache.glob(".part-*")
    (part / journal.JOURNAL).write_text('{"identity": {')
    assert prepared(Words(given), Split(0.1), encoder, "hash").resumed_documents == 0
    assert "preparation begins again" in capsys.readouterr().err


def test_two_processes_make_one_store(corpus: Path, tmp_path: Path) -> None:
    """The second waits for the first, says so, and takes what it made."""
    first, second = start(corpus, tmp_path, 1), start(corpus, tmp_path, 1)
    found = [process.communicate(timeout=120) for process in (first, second)]
    done = [json.loads(out.splitlines()[-1]) for out, _ in found]
    assert sorted(each["made"] for each in done) == [False, True]
    assert any("waiting for it" in err for _, err in found)
    assert done[0]["folder"] == done[1]["folder"]


# --- bad input ------------------------------------------------------------------------------------------------------


class Broken(Words):
    """A dataset that fails at its end, as one does whose network goes away; `ends` says whether it does."""

    ends = True

    def __iter__(self) -> Iterator[Document]:
        yield from super().__iter__()
        if self.ends:
            raise DataError("row 300: timed out")


def test_a_failed_preparation_leaves_no_half(cache: Path) -> None:
    """A corpus without text, with a fault before the first shard, or of chats without a template leaves no folder."""
    with pytest.raises(DataError, match="no text to train on"):
        prepare.prepare(Words([" "]), Split(0), plain(Bytes()), "hash")
    with pytest.raises(DataError, match="row 300: timed out"):
        prepare.prepare(Broken(texts(30)), Split(0), plain(Bytes()), "hash")
    with pytest.raises(RecipeError, match=r"is a chat, .* make texts and chats two sources \(data\.sources\)"):
        prepare.prepare(Words([Document("", "x", (Message("user", "a"),))]), Split(0), plain(Bytes()), "hash")
    assert [path.name for path in cache.iterdir()] == [".locks"]


@pytest.mark.usefixtures("tiny")
def test_a_corpus_that_cannot_be_read_to_its_end_costs_no_whole_shard(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network that fails at the last row does not undo the first ones: the next try goes on from there."""
    dataset, encoder = Broken(texts(300)), plain(Bytes())
    with pytest.raises(DataError, match="row 300: timed out"):
        prepare.prepare(dataset, Split(0.1), encoder, "hash")
    (part,) = cache.glob(".part-*")
    assert len(shards(part)) > 5
    dataset.ends = False
    done = prepared(dataset, Split(0.1), encoder, "hash")
    assert done.resumed_documents > 200
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "other"))
    assert shards(done.folder) == shards(prepare.prepare(dataset, Split(0.1), encoder, "hash"))


def test_a_full_disk_is_one_line_and_costs_no_whole_shard(corpus: Path, tmp_path: Path) -> None:
    """Nothing half written stays; with room again the same command goes on to the same bytes."""
    wanted = shards(Path(finish(start(corpus, tmp_path / "whole", 1))["folder"]))
    cache = tmp_path / "full"
    nothing = finish(start(corpus, cache, 1, "local", 20_000))["error"]
    assert re.fullmatch(r".*/full/tokens: .+: free space or set LLMX_CACHE .*; then start again", nothing)
    assert [path.name for path in (cache / "tokens").iterdir()] == [".locks"]
    process = start(corpus, cache, 1)
    while not list(cache.glob("tokens/.part-*/train-00003.arrow")):
        assert process.poll() is None, "it came to its end before it was killed"
        time.sleep(0.005)
    process.kill()
    process.communicate()
    some = finish(start(corpus, cache, 1, "local", 20_000))["error"]
    assert some.endswith("the same command then goes on from the last whole shard")
    (part,) = cache.glob("tokens/.part-*")
    assert not list(part.glob(".tmp-*"))
    done = finish(start(corpus, cache, 1))
    assert done["resumed"] > 0
    assert shards(Path(done["folder"])) == wanted


@pytest.mark.usefixtures("tiny")
def test_a_corpus_that_changes_while_it_is_read_is_refused(cache: Path) -> None:
    """Tokens of two states of a file are those of neither."""

    class Growing(Words):
        def __iter__(self) -> Iterator[Document]:
            yield from list(self.documents)
            self.documents.append(Document("more", "more"))

    with pytest.raises(DataError, match="changed while it was read"):
        prepare.prepare(Growing(texts(40)), Split(0), plain(Bytes()), "hash")
    assert not list(cache.glob(".part-*"))


def test_what_nobody_works_on_is_deleted_after_a_week(cache: Path) -> None:
    """Old unfinished stores go; young ones, and one that a process holds, stay."""
    old = time.time() - journal.ABANDONED_S - 60
    for name in (".part-old", ".part-held", ".part-young", ".tmp-old-1234abcd"):
        (cache / name).mkdir(parents=True)
        (cache / name / "train-00000.arrow").write_bytes(b"1")
        if "young" not in name:
            os.utime(cache / name, (old, old))
    with journal.locked(cache / "held"):
        prepare.prepare(Words(["a text"]), Split(0), plain(Bytes()), "hash")
    left = {path.name for path in cache.iterdir() if path.name.startswith((".part", ".tmp"))}
    assert left == {".part-held", ".part-young"}


def test_what_another_process_finishes_is_left_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that vanishes while it is looked at is passed over; one that is worked on again before the lock stays."""
    old = time.time() - journal.ABANDONED_S - 60
    for name in ("gone", "taken"):
        (cache / f".part-{name}").mkdir(parents=True)
        os.utime(cache / f".part-{name}", (old, old))
    real = journal._lock_path

    def lock_path(folder: Path) -> Path:
        if folder.name == ".part-taken":
            (folder / journal.JOURNAL).write_text("{}")
        return real(folder)

    monkeypatch.setattr(journal, "_lock_path", lock_path)
    (cache / ".locks").mkdir()
    glob = Path.glob

    def vanishing(folder: Path, pattern: str) -> Iterator[Path]:
        for path in glob(folder, pattern):
            if path.name == ".part-gone":
                path.rmdir()
            yield path

    monkeypatch.setattr(Path, "glob", vanishing)
    journal.clean_abandoned(cache)
    assert [path.name for path in glob(cache, ".part-*")] == [".part-taken"]


# --- ray, the command, progress -------------------------------------------------------------------------------------

CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
import ray
assert len(ray.nodes()) == 2, ray.nodes()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra: pip install 'llmx[ray]'")
def test_a_ray_cluster_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """Two nodes of a cluster on this machine encode what one process does, shard for shard."""
    wanted = shards(Path(finish(start(corpus, tmp_path / "local", 1))["folder"]))
    command = [sys.executable, "-c", CLUSTER, str(CHILD), str(corpus), "2", "ray"]
    environment = {**os.environ, "LLMX_CACHE": str(tmp_path / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout.splitlines()[-1])["folder"])
    assert folder.is_relative_to(tmp_path / "ray")
    assert len(wanted) > 20
    assert shards(folder) == wanted


@pytest.mark.usefixtures("cache")
def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, and nothing is left in the cache but an empty start."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"--engine ray: .*pip install 'llmx\[ray\]'"):
        prepare.prepare(Words(["a text"]), Split(0), plain(Bytes()), "hash", engine="ray")


def test_the_command_prepares_what_a_run_reads(
    corpus: Path, tmp_path: Path, llmx_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where the store is and what is in it; the second time it was there; torch is not imported for it."""
    asked = ("data", "prepare", f"data.path={corpus}", "--tokenizer", "char", "--json")
    environment = {"LLMX_CACHE": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1"}
    first, second = (llmx_cli(*asked, **environment) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (one,), (two,) = json.loads(first.stdout), json.loads(second.stdout)
    assert (one["made"], two["made"]) == (True, False)
    assert one["folder"] == two["folder"]
    assert one["folder"].startswith(str(tmp_path))
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path))
    recipe = Recipe.resolve(layers_of(None, overrides=[f"data.path={corpus}"], tokenizer="char"))
    assert new_corpora(recipe).folders == [Path(one["folder"])]
    assert one["splits"]["train"]["tokens"] == TokenStore(Path(one["folder"]), "train").tokens
    assert one["bytes"] == sum(path.stat().st_size for path in Path(one["folder"]).glob("*.arrow"))
    imported = re.findall(r"\|\s+(\S+)$", first.stderr, re.MULTILINE)
    assert "pyarrow" in imported
    assert "torch" not in imported


def test_the_command_verifies_every_byte_when_asked(corpus: Path, tmp_path: Path, llmx_cli: Cli) -> None:
    """That all agree is said; a flipped bit is one line that names the shard."""
    asked = ("data", "prepare", f"data.path={corpus}", "--tokenizer", "char")
    made = llmx_cli(*asked, "--json", LLMX_CACHE=str(tmp_path))
    path = Path(json.loads(made.stdout)[0]["folder"]) / "train-00000.arrow"
    data = bytearray(path.read_bytes())
    assert "in the cache; checksums agree; " in llmx_cli(*asked, "--verify", LLMX_CACHE=str(tmp_path)).stdout
    assert "checksums" not in llmx_cli(*asked, LLMX_CACHE=str(tmp_path)).stdout
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = llmx_cli(*asked, "--verify", LLMX_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert re.fullmatch(r"llmx: .*train-00000\.arrow: missing or altered .*\n", done.stderr)


def test_progress_tells_a_log_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal there is a line each time the interval is over, and none before."""
    with progress.progress("Encoding", "characters") as tell:
        tell(10)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "EVERY_S", 0.0)
        tell(1_234_567)
    assert re.match(r"llmx: Encoding: 1,234,567 characters", capsys.readouterr().err)
