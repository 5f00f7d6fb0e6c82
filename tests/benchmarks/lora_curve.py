"""The losses of a LoRA run and of transformers + peft on the same rows: python tests/benchmarks/lora_curve.py [tiny].

Both begin with one base of random weights in bf16 and one adapter (rank 64 on all linear layers, no dropout, for which
the two would draw other masks), and see the same rows in the same order under AdamW at a constant rate. Prints both
curves as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from lora import weights

import llmx
from llmx import hookimpl

STEPS = 12
LEARNING_RATE = 1e-3
RUN = {
    "data.held_out": 0.0,
    "train.steps": STEPS,
    "train.precision": "bf16",
    "optimizer.lr": LEARNING_RATE,
    "optimizer.weight_decay": 0.0,
    "scheduler.name": "constant",
    "scheduler.warmup_steps": 0,
    "adapter.lora.rank": 64,
    "adapter.lora.alpha": 128.0,
    "adapter.lora.dropout": 0.0,
    "checkpoint.every": STEPS,
    "checkpoint.merge": False,
    "generate.samples": 0,
}


class Recorder:
    """Keeps the adapter as it began, and the rows of each update."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Any] = []
        self.losses: list[float] = []

    @hookimpl
    def llmx_before_run(self, run: Any) -> None:
        self.folder.mkdir()
        run.adapters[0].save(self.folder, run.model)
        self.rows = [run.train_rows.batch(step, 1) for step in range(STEPS)]

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.losses.append(metrics["train/loss"])


def ours(base: Path, corpus: Path, length: int, folder: Path) -> Recorder:
    """Train by llmx."""
    recorder = Recorder(folder / "adapter-as-it-began")
    overrides = RUN | {
        "model.pretrained": str(base),
        "data.path": str(corpus),
        "data.sequence_length": length,
        "train.tokens_per_update": length,
    }
    trainer = llmx.Trainer(
        overrides=overrides, tokenizer="char", adapter=["lora"], callback=[recorder], out=folder / "run"
    )
    trainer.train()
    return recorder


def theirs(base: Path, adapter: Path, rows: list[Any]) -> list[float]:
    """Train by a plain loop over transformers and peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for batch in rows:
        logits_BTV = model(batch.ids_BT).logits.float()
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.labels_BT.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train twice and print both curves."""
    tiny = "tiny" in sys.argv[1:]
    base = weights(tiny)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = folder / "words.txt"
        corpus.write_text(
            "\n".join(f"{n} times {n + 1} is {n * (n + 1)}, and {n} and {n} is {2 * n}." for n in range(3000))
        )
        recorder = ours(base, corpus, 512, folder)
        curve = theirs(base, recorder.folder, recorder.rows)
    print(json.dumps({"ours": recorder.losses, "theirs": curve}))  # noqa: T201


if __name__ == "__main__":
    main()
