"""Preparation beside `datasets.map`, and its memory.

`pytest -m long tests/benchmarks`; the first needs `pip install datasets`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pydoc_data.topics
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

MAP = Path(__file__).with_name("map.py")
PROCESSES = 2
ROUNDS = 3
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Of Qwen2's tokenizer, as many of today's are split."""


def paragraphs() -> list[str]:
    return [part for topic in pydoc_data.topics.topics.values() for part in topic.split("\n\n") if part.strip()]


def write_corpus(path: Path, size: int) -> Path:
    """About `size` bytes of JSONL, documents of one to twelve paragraphs of Python's manual."""
    draw, parts, written = random.Random(0), paragraphs(), 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text = "\n\n".join(draw.choices(parts, k=draw.randint(1, 12)))
            written += file.write(json.dumps({"text": f"{text}\n\n{draw.random()}"}) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 16,000 ids with Qwen2's split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(paragraphs(), trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def prepare(corpus: object, tokenizer_json: Path, cache: Path) -> tuple[dict[str, Any], int]:
    """Run `llmx data prepare` in a process of its own, and return what it says and its peak memory in bytes."""
    command = [sys.executable, "-m", "llmx", "data", "prepare", f"data.path={corpus}", "--json"]
    command += ["--tokenizer", "hf", f"tokenizer.path={tokenizer_json}"]
    environment = {**os.environ, "LLMX_CACHE": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    (facts,) = json.loads(said)
    return facts, usage.ru_maxrss * 1024


@pytest.fixture
def few_cores() -> Iterator[None]:
    """Hold this process and what it starts to as many cores as `map` gets processes, so that both have the same."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("cannot hold processes to some of the cores here")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:PROCESSES])
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("few_cores")
@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs pip install datasets")
def test_prepare_is_twice_as_fast_as_map(
    tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Median over rounds, in turn, of tokens a second from one corpus and one tokenizer.json to shards on the disk.

    Both run on the same cores.
    """
    corpus = write_corpus(tmp_path / "corpus.jsonl", 100_000_000)
    ratios = []
    for number in range(ROUNDS):
        command = [sys.executable, str(MAP), str(corpus), str(tokenizer_json), str(PROCESSES)]
        theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        ours, _ = prepare(corpus, tokenizer_json, tmp_path / str(number))
        tokens = sum(split["tokens"] for split in ours["splits"].values())
        assert tokens == theirs["tokens"]  # this tokenizer has no token that ends a text
        ratios.append(theirs["seconds"] / ours["seconds"])
        with capsys.disabled():
            print(f"\n{tokens / ours['seconds']:,.0f} tokens/s, map {tokens / theirs['seconds']:,.0f}", end="")  # noqa: T201
    with capsys.disabled():
        print(f"\nllmx over datasets.map: {statistics.median(ratios):.2f} of {[round(each, 2) for each in ratios]}")  # noqa: T201
    assert statistics.median(ratios) >= 2.0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_corpus(
    tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The peak of 2 GB of text is that of 100 MB within a tenth, and under 1 GB."""
    corpus = write_corpus(tmp_path / "corpus.jsonl", 100_000_000)
    (tmp_path / "many").mkdir()
    for number in range(20):  # 2 GB to read, without as much on the disk
        (tmp_path / "many" / f"{number:02}.jsonl").symlink_to(corpus)
    _, small = prepare(corpus, tokenizer_json, tmp_path / "small")
    facts, large = prepare(tmp_path / "many" / "*.jsonl", tokenizer_json, tmp_path / "large")
    with capsys.disabled():
        print(f"\npeak memory: {small / 1e6:.0f} MB of 100 MB of text, {large / 1e6:.0f} MB of 2 GB")  # noqa: T201
    assert sum(split["text_bytes"] for split in facts["splits"].values()) > 1.8e9
    assert large < small * 1.1
    assert large < 1e9
