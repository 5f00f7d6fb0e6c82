"""How fast rows are read, and what planning them takes: `pytest -m long tests/benchmarks/test_loader.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from llmx.data.packing import PackedRows, PaddedRows
from llmx.data.store import FORMAT, ShardWriter, TokenStore
from llmx.data.stream import StreamRows
from llmx.protocols import Batch
from llmx_tinyllm import TinyLLMOptions
from llmx_tinyllm.model import TinyLLM

SIZES = [(256, 32), (1024, 8)]
TOKENS_PER_S = 5e6
SHARE_OF_STEP = 0.01


def corpus(folder: Path, lengths: np.ndarray, masked: bool) -> TokenStore:
    """Random tokens in shards of about a million; of a chat the second half is trained on."""
    draw = np.random.default_rng(0)
    writers = {name: ShardWriter(folder, name, 50_000) for name in ("train", "val")}
    for length in lengths.tolist():
        mask = np.arange(length) >= length // 2 if masked else None
        writers["train"].add(draw.integers(0, 50_000, length), length, mask)
        if writers["train"].waiting_tokens >= 10**6:
            writers["train"].flush()
    for writer in writers.values():
        writer.flush()
    splits = {name: writer.summary() for name, writer in writers.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "splits": splits}))
    return TokenStore(folder, "train")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenStore]:
    draw = np.random.default_rng(1)
    lengths = {
        "texts": (draw.integers(500, 4000, 4000), False),
        "chats": (np.exp(draw.normal(5, 0.8, 40_000)).astype(int).clip(20, 3000), True),
    }
    return {name: corpus(tmp_path_factory.mktemp(name), *given) for name, given in lengths.items()}


def seconds(rows: StreamRows | PackedRows | PaddedRows, batch_rows: int) -> float:
    """Time of one batch: the shortest mean of several turns, each over other rows."""
    rows.batch(0, batch_rows)
    times = []
    for turn in range(8):
        began = time.perf_counter()
        for number in range(50):
            rows.batch((turn * 50 + number) * batch_rows, batch_rows)
        times.append((time.perf_counter() - began) / 50)
    return min(times)


def step_seconds(batch: Batch) -> float:
    """Forward and backward of the default model on a batch; its optimizer comes on top."""
    model = TinyLLM(TinyLLMOptions(context_length=batch.ids_BT.shape[1]), vocab_size=4096)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        logits_BTV = model(batch.ids_BT % 4096, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        labels_M = batch.labels_BT.flatten()
        torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), labels_M.where(labels_M < 0, labels_M % 4096)
        ).backward()
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.long
@pytest.mark.parametrize(("length", "batch_rows"), SIZES)
def test_rows_are_read_at_five_million_tokens_a_second(
    stores: dict[str, TokenStore], length: int, batch_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process, every kind of rows, texts and chats; and under 1 % of a step of the default model here."""
    found: dict[str, float] = {}
    for name, store in stores.items():
        for rows_class in (StreamRows, PackedRows, PaddedRows):
            rows = rows_class(store, length, 0)
            found[f"{name} {rows_class.__name__}"] = seconds(rows, batch_rows)
    step = step_seconds(StreamRows(stores["texts"], length, 0).batch(0, batch_rows))
    tokens = length * batch_rows
    with capsys.disabled():
        print(f"\nT = {length}, B = {batch_rows}; a step takes {step * 1e3:.0f} ms")  # noqa: T201
        for name, each in found.items():
            print(f"{name:22} {tokens / each / 1e6:6.1f} M tokens/s, {each / step:.3%} of a step")  # noqa: T201
    assert tokens / max(found.values()) > TOKENS_PER_S
    assert max(found.values()) / step < SHARE_OF_STEP


PLAN = """
import re, sys, time
from pathlib import Path
import numpy as np
from llmx.data.batches import shuffled
from llmx.data.packing import best_fit

def kilobytes(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

count, length = int(sys.argv[1]), int(sys.argv[2])
draw = np.random.default_rng(0)
sizes = np.empty(count, np.int32)
for at in range(0, count, 100_000):
    sizes[at : at + 100_000] = np.exp(draw.normal(5.5, 1, 100_000)).astype(np.int32).clip(1, length)
before, began = kilobytes("VmRSS"), time.perf_counter()
order, firsts = best_fit(sizes, length, shuffled(count, 0))
took = time.perf_counter() - began
positions = (len(firsts) - 1) * length
print(took, (kilobytes("VmHWM") - before) * 1024 / count, 1 - sizes.sum(dtype=np.int64) / positions)
"""


@pytest.mark.long
@pytest.mark.parametrize("length", [1024, 32768])
def test_ten_million_documents_are_packed_in_seconds(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In under 20 s and 80 bytes a document at the peak, with under 1 % waste."""
    done = subprocess.run(
        [sys.executable, "-c", PLAN, "10000000", str(length)], capture_output=True, text=True, check=True
    )
    took, size, waste = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\nT = {length}: {took:.1f} s, {size:.0f} bytes a document at the peak, waste {waste:.3%}")  # noqa: T201
    assert took < 20
    assert size < 80
    assert waste < 0.01
