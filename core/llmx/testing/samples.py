"""Sample files for parts that read one: a corpus in the form a file's ending asks for, and a tokenizer.json."""

from __future__ import annotations

import atexit
import csv
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from llmx.component import Component
from llmx.testing.corpus import prose

RECORDS = 40


def sample_path(kind: str, component: Component) -> Path | None:
    """Return a file that a component can read, written now, or None where the kit knows no form that it reads.

    A dataset gets a corpus with the first ending it handles that is known here, a tokenizer a folder with a
    tokenizer.json. The files go when the process ends.
    """
    if kind == "dataset":
        suffix = next((suffix for suffix in component.handles if suffix in WRITERS), None)
        return None if suffix is None else _corpus(suffix)
    if kind == "template":
        return _template()
    return _tokenizer() if kind == "tokenizer" else None


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="llmx-samples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _corpus(suffix: str) -> Path:
    path = _folder() / f"sample{suffix}"
    WRITERS[suffix](path, list(prose()[:RECORDS]))
    return path


@functools.cache
def _tokenizer() -> Path:
    """Write a byte-level BPE tokenizer like those of published models."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ends = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=ends, show_progress=False)
    tokenizer.train_from_iterator(prose()[:RECORDS], trainer)
    folder = _folder() / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@functools.cache
def _template() -> Path:
    """Write a model folder with a chat template and no more."""
    folder = _folder() / "template"
    folder.mkdir()
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        encoding="utf-8",
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _text(path: Path, texts: list[str]) -> None:
    path.write_text("\n\n".join(texts), encoding="utf-8")


def _jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def _json(path: Path, texts: list[str]) -> None:
    path.write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")


def _parquet(path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": texts}), path)


def _arrow(path: Path, texts: list[str]) -> None:
    import pyarrow as pa

    table = pa.table({"text": texts})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _csv(path: Path, texts: list[str], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["text"], *([text] for text in texts)])


WRITERS: dict[str, Callable[[Path, list[str]], None]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _csv,
    ".tsv": functools.partial(_csv, delimiter="\t"),
}
"""How a corpus is written for an ending: records with a field `text`, or plain text."""
