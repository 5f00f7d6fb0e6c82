"""Time a LoRA step on a Qwen3-0.6B-shaped model: python tests/benchmarks/lora.py [bf16|nf4] [checkpoint] [tiny].

The same work as the peer's peft_lora.py, from the same folder of random weights: 1 x 512 tokens a step, rank 64 on all
linear layers, dropout 0.05, AdamW. It is the step of `llmx.train.loop` with everything in it. Prints tokens/s of the
median step and peak memory. `tiny` tries the script at a small shape.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
import llmx

STEPS = 6
WARM = 1
SIZES: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096,
}  # fmt: skip
TINY: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 1024,
}  # fmt: skip


def weights(tiny: bool) -> Path:
    """Return the folder that the peer made, or make it, which counts in this process's peak: run it twice then."""
    folder = Path(tempfile.gettempdir(), "qwen3-tiny-random" if tiny else "qwen3-0.6b-random")
    if not folder.exists():
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM

        torch.manual_seed(0)
        config = Qwen3Config(**(TINY if tiny else SIZES), tie_word_embeddings=True)
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def main() -> None:
    """Train a few steps on words of chance and print tokens a second and the peak."""
    arguments = sys.argv[1:]
    base = weights("tiny" in arguments)
    quantised = "nf4" in arguments
    with tempfile.TemporaryDirectory() as folder:
        draw = random.Random(0)
        words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
        Path(folder, "words.txt").write_text("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(400)))
        llmx.run(
            overrides={
                "model.pretrained": str(base),
                "data.path": f"{folder}/words.txt",
                "data.held_out": 0.0,
                "data.sequence_length": 512,
                "train.tokens_per_update": 512,
                "train.steps": STEPS,
                "train.precision": "bf16",
                "train.checkpointing": "block" if "checkpoint" in arguments else "none",
                "optimizer.lr": 1e-4,
                "adapter.lora.rank": 64,
                "adapter.lora.alpha": 128.0,
                "adapter.lora.dropout": 0.05,
                "checkpoint.every": STEPS,
                "checkpoint.merge": False,
                "generate.samples": 0,
            },
            tokenizer="char",
            adapter=["nf4", "lora"] if quantised else ["lora"],
            logger=["jsonl"],
            out=Path(folder, "run"),
        )
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "tokens_per_s" in row][WARM:]
    speeds = sorted(row["tokens_per_s"] for row in steps)
    peak = max(row["memory_bytes"] for row in steps) / 1e9
    name = " ".join(arguments) or "bf16"
    print(f"llmx {name}: {speeds[len(speeds) // 2]:.0f} tokens/s, peak {peak:.2f} GB")  # noqa: T201


if __name__ == "__main__":
    main()
