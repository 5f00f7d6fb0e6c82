"""Bytes of a file piece by piece, uncompressed, and what is said of those that are no text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from llmx.errors import DataError
from llmx_datasets.places import Place

CHUNK = 1 << 20
"""Bytes read at a time: large beside a document, small beside memory."""
REMOTE_CHUNK = 8 << 20
"""Bytes asked for at a time over a network, where each request costs a round trip."""
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
BOM = codecs.BOM_UTF8

MAGIC = (
    (rb"\x1f\x8b", "a gzip file", "give it a name that ends in .gz"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file", "give it a name that ends in .zst"),
    (rb"PAR1", "a Parquet file", 'set data.name = "parquet"'),
    (rb"ARROW1\0", "an Arrow file", 'set data.name = "arrow"'),
    (rb"PK\x03\x04", "a zip archive", "unpack it"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", "unpack it"),
    (rb"\xfd7zXZ\0", "an xz file", "unpack it"),
    (rb"%PDF-", "a PDF", "extract its text"),
    (rb"\xff\xfe|\xfe\xff", "text in UTF-16", "convert it, as with iconv -f UTF-16 -t UTF-8"),
)
"""How files begin that are often taken for text, what they are, and what to do."""


@contextmanager
def opened(place: Place) -> Iterator[pa.NativeFile]:
    """Open a file to be read once from its start, uncompressed by its ending."""
    buffer = None if place.local else REMOTE_CHUNK
    packed = COMPRESSION.get(place.suffix)
    with place.system.open_input_stream(place.path, compression=packed, buffer_size=buffer) as stream:
        yield stream


def chunks(place: Place) -> Iterator[bytes]:
    """Yield a file's bytes without a byte-order mark.

    Raises:
        DataError: it begins as no text does.
    """
    with opened(place) as stream:
        first = stream.read(CHUNK)
        check_text(first, place.name)
        yield first.removeprefix(BOM)
        while chunk := stream.read(CHUNK):
            yield chunk


def check_text(head: bytes, name: str) -> None:
    """Check the beginning of a file for that of a known kind that is no text in UTF-8.

    Raises:
        DataError: it is one.
    """
    for magic, kind, advice in MAGIC:
        if re.match(magic, head):
            raise DataError(f"{name}: not text in UTF-8 but {kind}; {advice}")


def lines(pieces: Iterable[bytes], most: int, name: str, option: str = "max_line_bytes") -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and bytes of each line; only a line feed ends one.

    Raises:
        DataError: a line is longer than `most` bytes; no more than that is held.
    """
    number, size, held = 0, 0, list[bytes]()
    for piece in pieces:
        *whole, last = piece.split(b"\n")
        if whole:
            whole[0] = b"".join([*held, whole[0]])
            size, held = 0, []
        for line in whole:
            number += 1
            if len(line) > most:
                raise _too_long(f"{name}:{number}", most, option)
            yield number, line
        held.append(last)
        size += len(last)
        if size > most:
            raise _too_long(f"{name}:{number + 1}", most, option)
    if size:
        yield number + 1, b"".join(held)


def _too_long(where: str, most: int, option: str) -> DataError:
    return DataError(f"{where}: a line of more than {most:,} bytes; mend the file, or raise data.{option}")


def not_utf8(place: Place) -> DataError:
    """Return what to say of a text that is not UTF-8, with the line of the first wrong byte."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    binary = False
    for chunk in chunks(place):
        binary = binary or b"\0" in chunk
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            break
        line += chunk.count(b"\n")
    if binary:
        return DataError(f"{place.name}:{line}: binary data, not text in UTF-8; "
                         "give the dataset that reads it, or take it out")  # fmt: skip
    return DataError(
        f"{place.name}:{line}: not valid UTF-8; convert it by `llmx data clean`, or as with iconv -t UTF-8"
    )
