"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from llmx.protocols import Document
from llmx_datasets import TEXT_SUFFIXES, TextOptions
from llmx_datasets.files import FileDataset

CHUNK = 1 << 20
"""Characters read at a time: large beside a document, small beside memory."""


class TextDataset(FileDataset):
    """Each file, or each part of one between separators, is a document; line ends are read as `\\n`."""

    suffixes = TEXT_SUFFIXES
    options: TextOptions

    def read(self, path: Path) -> Iterator[Document]:
        """Yield `file.txt` whole, or `file.txt#1`, `file.txt#2`, ... between separators."""
        separator = self.options.separator
        with path.open(encoding="utf-8-sig") as file:
            if separator is None:
                yield Document(file.read(), str(path))
                return
            for number, text in enumerate(split_stream(file, separator), 1):
                yield Document(text, f"{path}#{number}")


def split_stream(file: TextIO, separator: str, chunk: int = CHUNK) -> Iterator[str]:
    """Yield what `file.read().split(separator)` has, holding one part and one chunk at a time."""
    held: list[str] = []  # the unfinished part, without `tail`
    tail = ""  # its end, which may hold the beginning of a separator
    while text := file.read(chunk):
        first, *more = (tail + text).split(separator)
        if more:
            yield "".join(held) + first
            yield from more[:-1]
            held, first = [], more[-1]
        cut = max(len(first) - len(separator) + 1, 0)
        held.append(first[:cut])
        tail = first[cut:]
    yield "".join(held) + tail
