"""A record as it was read, or what is left of one that cannot be; and the JSON that counts as such."""

from __future__ import annotations

import json
import math
from typing import Any

from attrs import frozen

CHUNK = 2**20
START = 400
"""Bytes of a rejected record that are kept."""


@frozen
class Place:
    """How far a file was read: whole records, the lines and, where it can be sought, the bytes they took."""

    records: int = 0
    lines: int = 0
    offset: int = 0


@frozen
class Raw:
    """A record, or what is left of one that cannot be read.

    Attributes:
        line: where it begins, counted from 1.
        value: what its JSON holds; of a text, an object with a field `text`.
        written: how the file spells it on one line, if it does.
        fault: (reason, detail) of a record that cannot be read.
        start: its first bytes.
        after: where the next one begins.
    """

    line: int
    value: Any
    written: str | None
    fault: tuple[str, str] | None
    start: bytes
    after: Place


def json_fault(error: Exception) -> str:
    """Return what is wrong with a JSON text in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    return "too deeply nested" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # Python would write it as Infinity, which is no JSON
        raise ValueError(f"number out of range: {text[:40]}")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
LENIENT = json.JSONDecoder()
"""Finds the end of a value that `DECODER` refuses."""
