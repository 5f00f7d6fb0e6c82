"""The training step beside the seed's own loop, in turn in one run.

`pytest -m long tests/benchmarks` with the peers' scripts in ../shared/peers, or where LLMX_PEERS says.
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
PEERS = Path(os.environ.get("LLMX_PEERS", HERE.parents[3] / "shared" / "peers")) / "tinyllm"
ROUNDS = 3


def speed(script: Path, *arguments: str) -> float:
    """Return the tokens a second that a script prints."""
    command = [sys.executable, "-B", str(script), *arguments]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=True)
    found = re.search(r"([\d.]+) tokens/s", done.stdout)
    assert found, done.stdout
    return float(found[1])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PEERS.exists(), reason="needs the peers' scripts: set LLMX_PEERS")
def test_the_step_is_level_with_the_seeds_compiled_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """Median over rounds of ours over theirs, each round in turn; compiled against compiled at least 1."""
    ours, peer = HERE.with_name("step.py"), PEERS / "bench.py"
    rounds = []
    for _ in range(ROUNDS):
        theirs = speed(peer, "bf16", "compile")
        rounds.append([speed(ours, mode) / theirs for mode in ("compile", "eager")])
    compiled, eager = (statistics.median(each) for each in zip(*rounds, strict=True))
    with capsys.disabled():
        print(f"\nllmx over the seed's bf16 compiled loop: compiled {compiled:.2f}, eager {eager:.2f} of {rounds}")  # noqa: T201
    assert compiled >= 1.0
