"""JSON records, one on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import JSONL_SUFFIXES, JsonOptions, with_compressed
from llmx_datasets.files import FileDataset
from llmx_datasets.forms import Forms
from llmx_datasets.places import Place
from llmx_datasets.streams import chunks, lines


class JsonlDataset(FileDataset):
    """One record on each line; blank lines are passed over."""

    suffixes = with_compressed(JSONL_SUFFIXES)
    options: JsonOptions

    def read(self, place: Place) -> Iterator[Document]:
        """Yield `file.jsonl:1`, `file.jsonl:2`, ... by line."""
        form = Forms(self.options)
        for number, line in lines(chunks(place), self.options.max_line_bytes, place.name):
            if line and not line.isspace():
                origin = f"{place.name}:{number}"
                yield form(parse_line(line, origin), origin)


def parse_line(line: bytes, where: str) -> Any:
    """Return the value of a line of JSON.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        DataError: it is not JSON.
    """
    if b"tool" not in line and b"function" not in line:  # there a long number would lose digits
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None  # it is stricter than Python, which also has the better words
        if type(value) is dict:
            return value
    text = line.decode()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise json_error(where, error, error.colno) from error
    except (ValueError, RecursionError) as error:
        raise unreadable(where, error) from error


def json_error(where: str, error: json.JSONDecodeError, column: int) -> DataError:
    """Return what to say of text that is not JSON."""
    advice = "mend the file, or have `llmx data clean` take out what is broken"
    if error.msg == "Extra data":
        advice = 'if each line is a record, set data.name = "jsonl"'
    return DataError(f"{where}: not valid JSON: {error.msg.removesuffix(' at')} at column {column}; {advice}")


def unreadable(where: str, error: Exception) -> DataError:
    """Return what to say of a number of thousands of digits, or of thousands of brackets."""
    return DataError(f"{where}: JSON that cannot be read: {error}; mend the file")
