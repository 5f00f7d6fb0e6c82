"""Time the training step of the default recipe: python tests/benchmarks/step.py [eager|compile].

The same work as the peer's bench.py: TinyLLM with 4,096 tokens, 32 x 256 tokens a step, bf16, AdamW, clipping. It is
the step of `llmx.train.loop` with everything in it: reading rows, announcing events, metrics. Prints the median.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import llmx

STEPS = 14
WARM = 4


def main() -> None:
    """Train a few steps on words of chance and print tokens a second."""
    mode = (sys.argv[1:] or ["eager"])[0]
    with tempfile.TemporaryDirectory() as folder:
        draw = random.Random(0)
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(8000)]
        text = "\n".join(" ".join(draw.choices(words, k=12)) for _ in range(8000))
        Path(folder, "words.txt").write_text(text)
        llmx.run(
            overrides={
                "data.path": f"{folder}/words.txt",
                "data.held_out": 0.0,
                "train.steps": STEPS,
                "train.precision": "bf16",
                "train.compile": mode == "compile",
                "checkpoint.every": STEPS,
            },
            logger=["jsonl"],
            out=Path(folder, "run"),
        )
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    speeds = sorted(row["tokens_per_s"] for row in rows[WARM:])
    print(f"llmx bf16 {mode}: {speeds[len(speeds) // 2]:.0f} tokens/s")  # noqa: T201


if __name__ == "__main__":
    main()
