"""A preparation in a process of its own, for tests that kill it: CORPUS WORKERS [ENGINE [MOST_FILE_BYTES]].

Shards and blocks are so small that there are many; with several workers they are started at once.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from llmx.data import blocks, engine, prepare
from llmx.data.encode import Encoder, LossMask
from llmx.data.split import Split
from llmx.errors import LlmxError
from llmx_datasets.text import TextDataset, TextOptions
from llmx_tokenizers import CharOptions
from llmx_tokenizers.char import CharTokenizer

prepare.SHARD_TOKENS = 20_000
blocks.BLOCK_CHARS = 5_000
engine.START_CHARS = 0
engine.MOST_THREADS = 1


def main(corpus: Path, workers: int, engine_name: str = "local", most_file_bytes: int = 0) -> None:
    """Prepare, and print what came of it as JSON."""
    if most_file_bytes:  # the system then refuses as it does on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    dataset = TextDataset(TextOptions(path=str(corpus), separator="\n\n"))
    tokenizer = CharTokenizer.build(CharOptions(), [corpus.read_text(encoding="utf-8")])
    encoder = Encoder(tokenizer, None, LossMask())
    try:
        done = prepare.prepared(dataset, Split(0.1), encoder, "hash", engine=engine_name, workers=workers)  # type: ignore[arg-type]
    except LlmxError as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201
        return
    facts = {"folder": str(done.folder), "made": done.made, "resumed": done.resumed_documents}
    print(json.dumps(facts))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))
