"""Muon against AdamW on one text at equal steps, both tuned over one grid of rates: `muon_grid.py CORPUS OUT [STEPS]`.

Prints a Markdown table of the validation loss after the last step. Muon is scaled as Moonlight has it, so that its
updates have the size of AdamW's and one grid is the same for both; decay, warm-up, data and seeds are the same too. A
run folder is kept for each cell: started again with the same OUT, it goes on where it was.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import llmx

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (0, 1)
OPTIMIZERS: dict[str, dict[str, object]] = {
    "adamw": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1},
    "muon": {"optimizer.name": "muon", "optimizer.scale": "moonlight", "optimizer.weight_decay": 0.1},
}
SHARED = {
    "model.dim": 128,
    "model.layers": 4,
    "model.heads": 4,
    "model.kv_heads": 4,
    "model.mlp_dim": 384,
    "model.context_length": 128,
    "train.tokens_per_update": 4096,
    "scheduler.name": "linear",
    "generate.samples": 0,
}
"""One shape of about 0.9 million parameters, of which all but the embedding of the characters are hidden matrices."""


def losses(folder: Path) -> dict[int, float]:
    """Return the validation loss by the step, of the run that the folder holds as far as it is."""
    metrics = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    return {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}


def cell(corpus: Path, folder: Path, steps: int, rate: float, seed: int, optimizer: dict[str, object]) -> float:
    """Train, or go on, or only read what is done; return the last validation loss, infinite where it diverged."""
    if steps not in losses(folder):
        overrides = {"data.path": str(corpus), "train.steps": steps, "train.seed": seed}
        once = {"checkpoint.every": max(1, steps // 4), "eval.every": steps}
        given = SHARED | optimizer | overrides | once | {"optimizer.lr": rate}
        try:
            llmx.run(overrides=given, model="tinyllm", tokenizer="char", logger=["jsonl"], out=folder, resume=True)
        except llmx.DivergedError:
            return float("inf")
    return losses(folder)[steps]


def main() -> None:
    """Fill the grid and print it."""
    corpus, out = Path(sys.argv[1]), Path(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    print(f"| optimizer | {' | '.join(f'lr {rate:g}' for rate in RATES)} | best |\n|---|{'---|' * (len(RATES) + 1)}")  # noqa: T201
    for name, optimizer in OPTIMIZERS.items():
        means = [
            statistics.mean(
                cell(corpus, out / f"{name}-{rate:g}-{seed}", steps, rate, seed, optimizer) for seed in SEEDS
            )
            for rate in RATES
        ]
        print(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} | {min(means):.4f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
