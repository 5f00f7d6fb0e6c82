"""Encode one corpus in one way and print the tokens a second: `encode.py DATA_FOLDER WAY [REPEATS]`.

The ways: `datasets` maps batches with the `tokenizers` library in two processes, `hf` is our tokenizer of the same
file on two threads; `rows` gives sentencepiece one text after the other, `sentencepiece` is ours with the same model on
two threads. Those two are in English alone, as the peer's corpus is: a model of English spells Chinese in bytes, and
there ours is 1.5 times as fast.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROCESSES = 2
BATCH = 4000
"""Texts that our tokenizers are given at once."""


def corpus(folder: Path, repeats: int, *, chinese: bool) -> list[str]:
    """Return texts of some hundred to some thousand characters, English and Chinese."""
    texts = [json.loads(line)["text"] for line in (folder / "c4_demo.jsonl").read_text("utf-8").splitlines()]
    texts += (folder / "wiki_demo.txt").read_text("utf-8").split("\n")
    if chinese:
        records = json.loads((folder / "alpaca_zh_demo.json").read_text("utf-8"))
        texts += ["\n".join(each.values()) for each in records]
    return [text for text in texts if text] * repeats


def by_datasets(folder: Path, texts: list[str]) -> tuple[int, float]:
    """Return the tokens and the seconds of `datasets.map`."""
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer

    disable_progress_bars()
    tokenizer = Tokenizer.from_file(str(folder / "qwen-tokenizer" / "tokenizer.json"))
    data = Dataset.from_dict({"text": texts})

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [each.ids for each in tokenizer.encode_batch(batch["text"], add_special_tokens=False)]}

    begin = time.perf_counter()
    found = data.map(encode, batched=True, num_proc=PROCESSES, remove_columns=["text"], load_from_cache_file=False)
    seconds = time.perf_counter() - begin
    return sum(len(ids) for ids in found["ids"]), seconds


def by_rows(_: Path, texts: list[str]) -> tuple[int, float]:
    """Return the tokens and the seconds of one call of sentencepiece for each text."""
    processor = subwords(texts)._processor
    begin = time.perf_counter()
    found = [processor.encode(text, out_type=int) for text in texts]
    return sum(map(len, found)), time.perf_counter() - begin


def by_llmx(make: Callable[[Path, list[str]], object]) -> Callable[[Path, list[str]], tuple[int, float]]:
    """Return a way that encodes with a tokenizer of ours and writes the ids into a file, setting up included."""

    def timed(folder: Path, texts: list[str]) -> tuple[int, float]:
        import numpy as np

        tokenizer = make(folder, texts)
        count, begin = 0, time.perf_counter()
        with tempfile.TemporaryFile() as file:
            for at in range(0, len(texts), BATCH):
                ids = np.concatenate(tokenizer.encode_arrays(texts[at : at + BATCH]))
                ids.tofile(file)
                count += len(ids)
        return count, time.perf_counter() - begin

    return timed


def published(folder: Path, _: list[str]) -> object:
    """Return our tokenizer of the published file."""
    from llmx_tokenizers import HfOptions
    from llmx_tokenizers.hf import HfTokenizer

    return HfTokenizer.build(HfOptions(path=str(folder / "qwen-tokenizer")), iter(()))


def subwords(texts: list[str]) -> object:
    """Return a sentencepiece tokenizer of ours of 4,096 pieces."""
    from llmx_tokenizers import SentencePieceOptions
    from llmx_tokenizers.subwords import SentencePieceTokenizer

    return SentencePieceTokenizer.build(SentencePieceOptions(sample_bytes=1_000_000), iter(texts))


WAYS = {
    "datasets": by_datasets,
    "hf": by_llmx(published),
    "rows": by_rows,
    "sentencepiece": by_llmx(lambda _, texts: subwords(texts)),
}

if __name__ == "__main__":
    os.environ["RAYON_NUM_THREADS"] = str(PROCESSES)
    folder, way, repeats = Path(sys.argv[1]), sys.argv[2], int((sys.argv[3:] or ["20"])[0])
    tokens, seconds = WAYS[way](folder, corpus(folder, repeats, chinese=way in ("datasets", "hf")))
    sys.stdout.write(f"{tokens} tokens, {tokens / seconds:.0f} tokens/s\n")
