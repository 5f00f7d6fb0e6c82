"""The values of a .json file one at a time: of an array, or one behind the other."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from llmx.data.clean.files import Opened
from llmx.data.clean.options import MOST_BYTES
from llmx.data.clean.raw import CHUNK, DECODER, LENIENT, START, Place, Raw, json_fault

BLANK = " \t\r\n"


def read_values(file: Opened) -> Iterator[Raw]:
    """Yield the values of a file; behind a fault nothing can be told apart, so the rest is one broken record.

    Memory is bounded by the longest value.
    """
    text, records, array = _Text(file), 0, False
    try:
        array = text.skip(BLANK + "\ufeff") == "["
        text.at += array
        while found := text.skip(BLANK + ","):
            if found == "]" and array:
                text.at += 1
                if rest := text.skip(BLANK):
                    raise ValueError(f"{rest!r} behind the end of the array")
                return
            value, end, fault = _value(text)
            spelled, line = text.text[text.at : end], text.line
            text.line += spelled.count("\n")
            text.at = end
            records += 1
            one_line = None if "\n" in spelled or "\r" in spelled else spelled
            start = spelled[:START].encode("utf-8", "replace")
            yield Raw(line, value, one_line, fault, start, Place(records, text.line))
        if array or text.fault:
            raise ValueError("the array does not end")
    except (ValueError, RecursionError) as error:
        advice = "the rest of the file is left out" + ("" if array else "; is each line a record? then name it .jsonl")
        fault = text.fault or ("broken-json", f"{json_fault(error)}; {advice}")
        start = text.text[text.at : text.at + START].encode("utf-8", "replace")
        yield Raw(text.line, None, None, fault, start, Place(records + 1, text.line))


class _Text:
    """The text of a file, of which more is read when it is asked for.

    Attributes:
        at: place in `text` up to which it was read.
        line: of that place, counted from 1.
        whole: whether `text` goes to the end of the file, or to what cannot be decoded: then `fault` says so.
    """

    def __init__(self, file: Opened) -> None:
        self.stream, self.encoding = file.stream, file.encoding
        self.decoder = codecs.getincrementaldecoder(file.encoding)()
        self.text, self.at, self.line, self.whole = "", 0, 1, False
        self.fault: tuple[str, str] | None = None

    def more(self) -> bool:
        """Read as much again as is held, and drop what was read; return whether there was any."""
        held, new = self.text[self.at :], ""
        while not new and not self.whole:
            piece = self.stream.read(max(CHUNK, len(held)))
            self.whole = not piece
            try:
                new = self.decoder.decode(piece, final=self.whole)
            except UnicodeDecodeError as error:
                new, self.whole = error.object[: error.start].decode(self.encoding), True
                byte = error.object[error.start]
                self.fault = "encoding", f"byte 0x{byte:02x} is not {self.encoding}; the rest of the file is left out"
        self.text, self.at = held + new, 0
        return bool(new)

    def skip(self, characters: str) -> str:
        """Go past some characters and return the next one, "" at the end."""
        while True:
            while self.at < len(self.text):
                if (found := self.text[self.at]) not in characters:
                    return found
                self.line += found == "\n"
                self.at += 1
            if not self.more():
                return ""


def _value(text: _Text) -> tuple[Any, int, tuple[str, str] | None]:
    """Return the value that begins here, where it ends, and what is wrong with it alone."""
    while True:
        fault = None
        try:
            try:
                value, end = DECODER.raw_decode(text.text, text.at)
            except json.JSONDecodeError:
                raise
            except ValueError as error:  # a number that is none; the value ends where it would with a better one
                fault = ("broken-json", json_fault(error))
                value, end = LENIENT.raw_decode(text.text, text.at)
        except json.JSONDecodeError:
            if len(text.text) - text.at > MOST_BYTES or not text.more():
                raise
            continue
        if end < len(text.text) or text.whole:
            return value, end, fault
        text.more()  # a number may go on
