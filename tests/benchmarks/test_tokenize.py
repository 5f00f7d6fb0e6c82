"""Encoding beside what the peers do, in turn in one run.

`pytest -m long tests/benchmarks/test_tokenize.py` with the corpora in ../shared/data, or where LLMX_BENCH_DATA says.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("LLMX_BENCH_DATA", HERE.parents[3] / "shared" / "data"))
ROUNDS = 3


def measure(way: str) -> tuple[int, float]:
    """Return how many tokens there are, and how many a second."""
    command = [sys.executable, "-B", str(HERE.with_name("encode.py")), str(DATA), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) tokens, (\d+) tokens/s", done.stdout)
    assert found, done.stdout
    return int(found[1]), float(found[2])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DATA.exists(), reason="needs the corpora: set LLMX_BENCH_DATA")
@pytest.mark.parametrize(("theirs", "ours", "least"), [("datasets", "hf", 2.0), ("rows", "sentencepiece", 3.0)])
def test_encoding_is_faster(theirs: str, ours: str, least: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Median over rounds of our tokens a second over theirs, each round in turn; as many tokens for both."""
    if theirs == "datasets":
        pytest.importorskip("datasets", reason="needs datasets: pip install datasets")
    ratios = []
    for _ in range(ROUNDS):
        (count, peer), (same, speed) = measure(theirs), measure(ours)
        assert same == count
        ratios.append(speed / peer)
    with capsys.disabled():
        print(f"\n{ours} over {theirs}: {statistics.median(ratios):.2f} of {ratios}")  # noqa: T201
    assert statistics.median(ratios) >= least
