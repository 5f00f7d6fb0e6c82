"""Tokenise a JSONL corpus as the Hugging Face docs do, `datasets.map(batched=True)`: CORPUS TOKENIZER_JSON PROCESSES.

The shortest way there is: the `tokenizers` library alone, ids alone, no transformers around it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import datasets
from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file(sys.argv[2])


def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
    return {"ids": [each.ids for each in TOKENIZER.encode_batch(batch["text"], add_special_tokens=False)]}


if __name__ == "__main__":
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        corpus = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=cache)
        done = corpus.map(encode, batched=True, num_proc=int(sys.argv[3]), remove_columns=["text"])
        seconds = time.perf_counter() - began
        tokens = sum(len(batch["ids"].combine_chunks().flatten()) for batch in done.with_format("arrow").iter(10_000))
    print(json.dumps({"tokens": tokens, "seconds": seconds}))  # noqa: T201
