"""A JSON array of records in a file, or one record."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import JSON_SUFFIXES, JsonOptions, with_compressed
from llmx_datasets.files import FileDataset
from llmx_datasets.forms import Forms
from llmx_datasets.json_lines import json_error, unreadable
from llmx_datasets.places import Place
from llmx_datasets.streams import chunks

SPACE = re.compile(r"[ \t\n\r]*")
NEAR = 16
"""Characters before the end of what was read within which an error may only mean that more is to come."""


class JsonDataset(FileDataset):
    """An array of records, or one record; one record is held in memory at a time."""

    suffixes = with_compressed(JSON_SUFFIXES)
    options: JsonOptions

    def read(self, place: Place) -> Iterator[Document]:
        """Yield `file.json[0]`, `file.json[1]`, ... by place in the array."""
        form = Forms(self.options)
        for number, record in enumerate(JsonStream(chunks(place), place.name, self.options.max_line_bytes).records()):
            origin = f"{place.name}[{number}]"
            yield form(record, origin)


class JsonStream:
    """Reads a JSON text value by value.

    Args:
        pieces: its bytes.
        most: characters of the longest value.
    """

    def __init__(self, pieces: Iterator[bytes], name: str, most: int) -> None:
        self.pieces, self.name, self.most = pieces, name, most
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.scan = json.JSONDecoder().raw_decode
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the beginning of `text`

    def records(self) -> Iterator[Any]:
        """Yield the elements of the array that the text is, or its only value.

        Raises:
            DataError: it is not JSON; the message has the line.
        """
        start = self._next()
        if not start:
            return
        if start != "[":
            yield self._value()
        else:
            self.at += 1
            if self._next() == "]":
                self.at += 1
            else:
                yield from self._elements()
        if self._next():
            raise self._error("Extra data", self.at)

    def _elements(self) -> Iterator[Any]:
        while True:
            yield self._value()
            mark = self._next()
            if mark not in (",", "]"):
                raise self._error("Expecting ',' delimiter", self.at)
            self.at += 1
            if mark == "]":
                return
            self._next()

    def _next(self) -> str:
        """Go to the next character that is no white space and return it, "" at the end."""
        while True:
            found = SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def _value(self) -> Any:
        while True:
            start = self.at
            try:
                value, end = self.scan(self.text, start)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - NEAR
                if not cut_off:
                    raise self._error(error.msg, error.pos) from error
                self._check_size(len(self.text))
                if not self._more():
                    raise self._error(error.msg, error.pos - start) from error
            except (ValueError, RecursionError) as error:
                raise unreadable(f"{self.name}:{self._place(start)[0]}", error) from error
            else:
                self._check_size(end)
                self.at = end
                return value

    def _check_size(self, end: int) -> None:
        if end - self.at > self.most:
            raise DataError(
                f"{self.name}:{self._place(self.at)[0]}: a record of more than {self.most:,} characters, or a text "
                "that does not end; mend the file, or raise data.max_line_bytes"
            )

    def _more(self) -> bool:
        """Read on, at least as much as is held, so that a long value is not scanned too often."""
        self.line, self.column = self._place(self.at)
        held, read = [self.text[self.at :]], 0
        while not self.ended and read <= len(held[0]):
            piece = next(self.pieces, None)
            self.ended = piece is None
            held.append(self.decoder.decode(piece or b"", final=self.ended))
            read += len(held[-1])
        self.text, self.at = "".join(held), 0
        return read > 0

    def _place(self, at: int) -> tuple[int, int]:
        """Return line and column of a place in `text`."""
        breaks = self.text.count("\n", 0, at)
        if breaks:
            return self.line + breaks, at - self.text.rfind("\n", 0, at)
        return self.line, self.column + at

    def _error(self, message: str, at: int) -> DataError:
        line, column = self._place(at)
        return json_error(f"{self.name}:{line}", json.JSONDecodeError(message, "", 0), column)
