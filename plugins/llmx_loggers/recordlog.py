"""Reads the files that wandb and swanlab write: records in the log format of LevelDB after a header of 7 bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32768
HEADER = 7
FULL, LAST = 1, 4
"""Kinds of a chunk that end a record; the others, 2 and 3, are followed by more of it."""


def records(path: Path) -> Iterator[bytes]:
    """Yield each record up to the end, or up to the first that a kill left incomplete."""
    data = path.read_bytes()
    position, record = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too little for a chunk: the block is filled up
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + HEADER : position + HEADER + size]
        if zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        record += chunk
        position += HEADER + size
        if kind in (FULL, LAST):
            yield record
            record = b""
