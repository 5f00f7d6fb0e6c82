"""Runs with adapters from a folder that transformers wrote: what they leave is for peft and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llmx

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's


@pytest.mark.parametrize("adapters", [["lora"], ["nf4", "lora"]], ids="-".join)
def test_a_run_learns_and_others_open_what_it_leaves(
    adapters: list[str], llama: Any, ids_BT: Tensor, corpus: Path, tmp_path: Path
) -> None:
    """The loss falls; peft opens `adapter/` on the base, and transformers the merged `model/` with equal logits; a
    packed base is merged where that is asked for."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    theirs, _ = llama()
    theirs.save_pretrained(tmp_path / "base")
    text = "".join(each for each in corpus.read_text()[:20_000].lower() if each in "abcdefghijklmnopqrstuvwxyz \n")
    (tmp_path / "text.txt").write_text(text)
    run = llmx.run(
        overrides={
            "model.pretrained": str(tmp_path / "base"),
            "data.path": str(tmp_path / "text.txt"),
            "train.steps": 12,
            "train.tokens_per_update": 512,
            "train.precision": "fp32",
            "optimizer.lr": 1e-2,
            "adapter.lora.rank": 4,
            "checkpoint.merge": True,
            "generate.samples": 0,
        },
        tokenizer="char",
        adapter=adapters,
        logger=["jsonl"],
        out=tmp_path / "run",
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    run.module.eval()
    with torch.no_grad():
        ours: Tensor = run.model(ids_BT)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")(ids_BT).logits
        adapted = PeftModel.from_pretrained(theirs, tmp_path / "run" / "adapter")(ids_BT).logits
    torch.testing.assert_close(merged, ours, atol=1e-4, rtol=1e-4)
    if adapters == ["lora"]:  # else peft's base is not the packed one
        torch.testing.assert_close(adapted, ours, atol=1e-4, rtol=1e-4)
    assert adapted.isfinite().all()
