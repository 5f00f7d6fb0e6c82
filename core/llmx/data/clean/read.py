"""Records of a file in their order, each with its line number, and what could not be read of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, frozen

from llmx.data.clean.encodings import CERTAIN, FEWEST
from llmx.data.clean.files import Form, Opened, Stream, form_of, opened
from llmx.data.clean.options import MOST_BYTES, CleanOptions
from llmx.data.clean.raw import CHUNK, DECODER, START, Place, Raw, json_fault
from llmx.data.clean.values import read_values


@frozen
class Part:
    """What stands between two separators; `data` is None where it is too long to hold."""

    data: bytes | None
    start: bytes
    line: int
    lines: int
    end: int


def read_records(path: Path, options: CleanOptions, place: Place) -> Iterator[tuple[str, Raw]]:
    """Yield the encoding of a file with each of its records after `place`.

    Raises:
        DataError: the file cannot be opened.
    """
    form = form_of(path)
    with opened(path, options.encoding) as file:
        if form == "lines" and file.seek and place.records:
            file.seek(place.offset)
            records = _lines(file, place)
        else:
            records = itertools.islice(_whole(file, form, options.separator), place.records, None)
        for raw in records:
            yield file.told, raw


def _whole(file: Opened, form: Form | None, separator: str | None) -> Iterator[Raw]:
    """Yield all records of a file, and at the end why there are not more."""
    last = Place()
    records = {"lines": _lines(file, last), "values": read_values(file)}.get(str(form)) or _texts(file, separator)
    for raw in records:
        yield raw
        last = raw.after
    if fault := file.fault():
        yield Raw(last.lines + 1, None, None, ("unreadable", fault), b"", evolve(last, records=last.records + 1))


# --- a record on each line ------------------------------------------------------------------------------------------


def _lines(file: Opened, place: Place) -> Iterator[Raw]:
    records = place.records
    for part in parts(file.stream, b"\n"):
        if part.data is not None and not part.data.strip():
            continue
        records += 1
        after = Place(records, place.lines + part.lines, place.offset + part.end)
        line = place.lines + part.line
        text, fault = _decoded(part, file.encoding)
        raw = Raw(line, None, text, fault, part.start, after)
        yield _parsed(raw) if fault is None else raw


def _decoded(part: Part, encoding: str) -> tuple[str | None, tuple[str, str] | None]:
    if part.data is None:
        return None, ("too-long", f"over {MOST_BYTES:,} bytes")
    try:
        return part.data.decode(encoding if not _utf8_among(part.data, encoding) else "utf-8"), None
    except UnicodeDecodeError as error:
        byte = part.data[error.start]
        return None, ("encoding", f"byte 0x{byte:02x} at {error.start} is not {encoding}")


def _utf8_among(data: bytes, encoding: str) -> bool:
    """Return whether a line of a file in another encoding is UTF-8 all the same: files get put together."""
    if encoding not in CERTAIN.values() or data.isascii():
        return False
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    # a word or two of GB18030 may be valid UTF-8 by chance, more is not
    return len(data) - len(text) >= FEWEST


def _parsed(raw: Raw) -> Raw:
    assert raw.written is not None
    text = raw.written.strip().strip("\ufeff")
    try:
        return evolve(raw, value=DECODER.decode(text), written=text)
    except (ValueError, RecursionError) as error:
        return evolve(raw, fault=("broken-json", json_fault(error)))


# --- texts ----------------------------------------------------------------------------------------------------------


def _texts(file: Opened, separator: str | None) -> Iterator[Raw]:
    mark = None if separator is None else separator.encode(file.encoding)
    for number, part in enumerate(parts(_LineEnds(file.stream), mark), 1):
        text, fault = _decoded(part, file.encoding)
        yield Raw(part.line, {"text": text}, None, fault, part.start, Place(number, part.lines))


class _LineEnds:
    """A stream with line ends as they are on Unix, so that a separator need not know the others."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.held = b""

    def read(self, size: int) -> bytes:
        piece = self.held + self.stream.read(size)
        self.held = b""
        if piece.endswith(b"\r") and (more := self.stream.read(1)):
            piece += more
            if more == b"\r":
                piece, self.held = piece[:-1], more
        return piece.replace(b"\r\n", b"\n")


def parts(stream: Stream, separator: bytes | None) -> Iterator[Part]:
    """Yield what stands between separators, holding one part and one chunk at a time."""
    held, seen, lost = bytearray(), 0, b""  # `lost`: the start of a part that grew too long
    line = lines = end = 0
    while piece := stream.read(CHUNK):
        held += piece
        at = 0
        while separator and (found := held.find(separator, max(at, seen))) >= 0:
            data, at = bytes(held[at:found]), found + len(separator)
            lines += data.count(b"\n") + separator.count(b"\n")
            end += len(data) + len(separator)
            yield Part(None if lost else data, lost or data[:START], line + 1, lines, end)
            line, lost, seen = lines, b"", 0
        del held[:at]
        if len(held) > MOST_BYTES:
            lost = lost or bytes(held[:START])
            drop = len(held) - len(separator or b"")
            lines += held.count(b"\n", 0, drop)
            end += drop
            del held[:drop]
        seen = max(0, len(held) - len(separator or b"") + 1)
    if held or lost:
        data = bytes(held)
        lines += data.count(b"\n")
        yield Part(None if lost else data, lost or data[:START], line + 1, lines, end + len(data))
