"""A LoRA step beside transformers + peft, in turn in one run.

`pytest -m long tests/benchmarks` with the peers' scripts in ../shared/peers, or where LLMX_PEERS says. Needs the extra
`quant`, peft and accelerate, and 8 GB of memory.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
PEER = Path(os.environ.get("LLMX_PEERS", HERE.parents[3] / "shared" / "peers")) / "peft_lora.py"
ROUNDS = 3


def measured(script: Path, *arguments: str) -> tuple[float, float]:
    """Return the tokens a second and the peak, in GB, that a script prints."""
    done = subprocess.run([sys.executable, "-B", str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"([\d.]+) tokens/s, peak ([\d.]+) GB", done.stdout)
    assert found, done.stdout
    return float(found[1]), float(found[2])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not PEER.exists(), reason="needs the peers' scripts: set LLMX_PEERS")
@pytest.mark.parametrize(("kind", "faster"), [("bf16", 2.5), ("nf4", 2.0)])
def test_a_step_is_faster_and_smaller_than_pefts(kind: str, faster: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Median over rounds of ours over theirs, each round in turn: tokens a second, and half the peak at most."""
    rounds = []
    for _ in range(ROUNDS):
        theirs, ours = measured(PEER, kind), measured(HERE.with_name("lora.py"), kind)
        rounds.append((ours[0] / theirs[0], ours[1] / theirs[1]))
    speed, peak = (statistics.median(each) for each in zip(*rounds, strict=True))
    with capsys.disabled():
        print(f"\nllmx over peft, {kind}: {speed:.2f} times the tokens/s, {peak:.2f} of the peak; of {rounds}")  # noqa: T201
    assert speed >= faster
    assert peak <= 0.5


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_losses_are_pefts(capsys: pytest.CaptureFixture[str]) -> None:
    """On the same rows from the same adapter, each of a dozen losses is within half a percent of peft's; they fall."""
    script = HERE.with_name("lora_curve.py")
    done = subprocess.run([sys.executable, "-B", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    curves = json.loads(done.stdout.splitlines()[-1])
    apart = max(abs(ours / theirs - 1) for ours, theirs in zip(curves["ours"], curves["theirs"], strict=True))
    with capsys.disabled():
        first, last = curves["ours"][0], curves["ours"][-1]
        print(f"\nlosses of llmx and peft: at most {apart:.3%} apart, {first:.2f} to {last:.2f}")  # noqa: T201
    assert curves["ours"][-1] < 0.9 * curves["ours"][0]
    assert apart <= 0.005
