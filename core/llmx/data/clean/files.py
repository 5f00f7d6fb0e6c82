"""The files to clean: which they are, and their bytes, unpacked and without a foreign wide encoding."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias

from attrs import evolve, frozen

from llmx.data.clean.encodings import encoding_of
from llmx.errors import DataError

Form: TypeAlias = Literal["lines", "values", "texts"]

FORMS: dict[str, Form] = {".jsonl": "lines", ".ndjson": "lines", ".json": "values", ".txt": "texts", ".md": "texts"}
PACKED = (".gz", ".zst")
MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
FOREIGN = ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"PK\x03\x04", "ZIP"), (b"%PDF", "PDF"))

HEAD = 2**20
"""Bytes from which an encoding is told."""

PIECE = 2**16
"""Bytes unpacked at a time: what is lost before the place where a file is broken."""


class Stream(Protocol):
    """Bytes to be read in order; none are left when none come."""

    def read(self, size: int, /) -> bytes: ...


@frozen
class Opened:
    """A file being read.

    Attributes:
        stream: its bytes in an encoding of which ASCII is a part, after a byte-order mark.
        encoding: of `stream`.
        told: what the file itself is in, for the summary.
        seek: goes to a byte, counted from where `stream` began; None where its bytes are not the file's own.
        fault: says, when `stream` has ended, why it ended too early; "" if it did not.
    """

    stream: Stream
    encoding: str
    told: str
    seek: Callable[[int], object] | None = None
    fault: Callable[[], str] = lambda: ""


def form_of(path: Path) -> Form | None:
    """Return how the records of a file stand in it, by its ending; None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return FORMS.get(suffixes[-1]) if suffixes else None


def find_inputs(given: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and patterns name, each once: in the order given, those of one sorted.

    Raises:
        DataError: one names no file, or a file of another kind.
    """
    found: dict[str, Path] = {}
    for each in given:
        path = Path(each).expanduser()
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and form_of(file) and _own(file, path))
        else:
            files = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207  # no "/a/*" there
            files = [file for file in files if file.is_file()]
        if not files:
            raise DataError(f"{each}: no such file, and no folder or pattern of files; it is relative to {Path.cwd()}")
        for file in files:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100  # links stay: each is a name of its own
    for path in found.values():
        if form_of(path) is None:
            raise DataError(f"{path}: must end in {', '.join(FORMS)}, with .gz or .zst behind it if packed; rename it")
    return list(found.values())


def _own(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") or part.endswith(".cleaning") for part in file.relative_to(folder).parts)


@contextmanager
def opened(path: Path, encoding: str | None) -> Iterator[Opened]:
    """Open a file.

    Raises:
        DataError: it cannot be read, or is of another kind.
        MissingPackageError: see `encoding_of`.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
            file.seek(0)
            for mark, name in FOREIGN:
                if magic.startswith(mark):
                    raise DataError(f"{path}: is a {name} file; give text, JSON or JSONL")
            packing = next((name for mark, name in MAGIC if magic.startswith(mark)), None)
            if packing is None:
                yield _opened(file, path, encoding, file)
            else:
                unpacked = _unpacked(file, packing)
                yield evolve(_opened(unpacked, path, encoding, None), fault=lambda: unpacked.fault)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; mend the file") from error


def _unpacked(file: BinaryIO, packing: str) -> _Unpacked:
    import pyarrow as pa

    return _Unpacked(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), packing))


class _Unpacked:
    """What is packed in a file, up to where it is cut or broken: then `fault` says so."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.fault = ""

    def read(self, size: int) -> bytes:
        try:
            return b"" if self.fault else self.stream.read(min(size, PIECE))
        except OSError as error:
            if error.errno is not None:  # the disk's fault, not the file's
                raise
            self.fault = str(error)
            return b""


def _opened(stream: Stream, path: Path, encoding: str | None, own: BinaryIO | None) -> Opened:
    head = _read_all(stream, HEAD)
    told, mark = (encoding, 0) if encoding else encoding_of(head, path)
    if told.replace("_", "-").lower().startswith(("utf-16", "utf-32")):
        return Opened(_Recoded(_Joined(head[mark:], stream), told), "utf-8", told)
    if own is None:
        return Opened(_Joined(head[mark:], stream), told, told)
    own.seek(mark)
    return Opened(own, told, told, lambda offset: own.seek(mark + offset))


def _read_all(stream: Stream, size: int) -> bytes:
    """Return `size` bytes, fewer only at the end."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Joined:
    """Bytes that were read ahead, and the rest of their stream."""

    def __init__(self, head: bytes, rest: Stream) -> None:
        self.head, self.rest = head, rest

    def read(self, size: int) -> bytes:
        if self.head:
            piece, self.head = self.head[:size], self.head[size:]
            return piece
        return self.rest.read(size)


class _Recoded:
    """A stream of UTF-16 or UTF-32 as UTF-8; a broken character becomes bytes that are not valid there."""

    def __init__(self, stream: Stream, encoding: str) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def read(self, size: int) -> bytes:
        while piece := self.stream.read(size):
            if text := self.decoder.decode(piece):
                return text.encode("utf-8", "surrogatepass")
        cut, _ = self.decoder.getstate()
        self.decoder.reset()
        return b"\xff" if cut else b""
