"""Several ranks: torchrun with two processes on this machine takes the steps that one process takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def torchrun(small: list[str], out: Path, *arguments: str) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "llmx", "run"]
    command = [*launch, *small, "--tokenizer", "char", "--logger", "jsonl", "--out", str(out), *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out
    return out


def series(folder: Path, key: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def test_two_ranks_take_the_steps_of_one(small: list[str], tmp_path: Path) -> None:
    """Losses, held-out losses and weights are those of one process but for rounding; files and words come once."""
    import llmx

    same = ["optimizer.eps=1e-3", "train.steps=4"]
    alone = llmx.run(overrides=[*small, *same], tokenizer="char", logger=["jsonl"], out=tmp_path / "one")
    out = finish(torchrun(small, tmp_path / "two", *same))
    assert out.count("The model is in") == 1
    for key in ("train/loss", "val/loss", "tokens"):
        assert series(tmp_path / "two", key) == pytest.approx(series(tmp_path / "one", key), abs=2e-5)
    weights = load_file(tmp_path / "two" / "model" / "model.safetensors")
    for name, weight in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, atol=5e-6, rtol=0)


def test_two_ranks_stop_and_resume_as_one(small: list[str], tmp_path: Path) -> None:
    """Killed in the middle and resumed with as many ranks: the same bytes as a run that went through."""
    longer = ["train.steps=40", "checkpoint.every=5"]
    finish(torchrun(small, tmp_path / "through", *longer))
    process = torchrun(small, tmp_path / "killed", *longer)
    for _ in range(1200):
        if (tmp_path / "killed" / "checkpoints" / "step-00000010").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to its ranks
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "killed" / "model").exists()
    finish(torchrun(small, tmp_path / "killed", *longer, "--resume"))
    paths = [tmp_path / name / "model" / "model.safetensors" for name in ("through", "killed")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_rows_that_cannot_be_shared_are_told(small: list[str], tmp_path: Path) -> None:
    """An update of one row has nothing for a second rank."""
    process = torchrun(small, tmp_path / "x", "train.tokens_per_update=64")
    out, _ = process.communicate(timeout=120)
    assert "its 1 rows cannot be shared by 2 ranks alike" in out
    assert not (tmp_path / "x").exists()
