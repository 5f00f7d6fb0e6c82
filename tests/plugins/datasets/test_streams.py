"""Lines and JSON values of a stream are those of the whole, wherever the pieces end."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx.errors import DataError
from llmx_datasets.json_array import JsonStream
from llmx_datasets.json_lines import parse_line
from llmx_datasets.streams import lines


@settings(max_examples=300)
@given(st.binary(max_size=20).map(lambda b: b.replace(b"\0", b"\n")), st.integers(1, 5), st.integers(1, 8))
def test_lines_in_a_stream_are_lines(content, size, most):
    """Wherever the pieces end the lines are those of `split`, and the first that is too long stops with its number."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    wanted = list(enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1))
    long = next((number for number, line in wanted if len(line) > most), None)
    if long is None:
        assert list(lines(pieces, most, "f")) == wanted
        return
    with pytest.raises(DataError, match=rf"^f:{long}: a line of more than {most} bytes"):
        list(lines(pieces, most, "f"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


def streamed(content, size, most=1000):
    """Return the records of JSON bytes that come in pieces."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return list(JsonStream(iter(pieces), "f", most).records())


@settings(max_examples=300)
@given(st.lists(OBJECTS, max_size=4), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_an_array_in_a_stream_is_an_array(records, size, indent, ascii_only):
    """Wherever the pieces end, the records are those of `json.loads`."""
    content = json.dumps(records, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert streamed(content, size) == json.loads(content)


def loaded(text):
    """Return what Python reads of a JSON text, and the line where it finds it broken, 0 if nowhere."""
    try:
        return (json.loads(text) if text else []), 0
    except json.JSONDecodeError as error:
        return None, error.lineno


@settings(max_examples=400)
@given(
    st.lists(OBJECTS, min_size=1, max_size=3),
    st.sampled_from([None, 1]),
    st.integers(1, 60),
    st.integers(0, 10**6),
    st.sampled_from(["", "]", "}", ",", ":", '"', "x", "\\", "["]),
)
def test_broken_json_is_an_error_wherever_the_pieces_end(records, indent, size, at, put):
    """JSON with a character exchanged or the rest cut off is broken exactly where `json.loads` finds it broken."""
    text = json.dumps(records, indent=indent)
    at %= len(text)
    broken = text[:at] + put + (text[at + 1 :] if put else "")
    wanted, line = loaded(broken)
    if line:
        with pytest.raises(DataError, match=rf"^f:{line}: not valid JSON"):
            streamed(broken.encode(), size)
    else:
        assert streamed(broken.encode(), size) == (wanted if isinstance(wanted, list) else [wanted])


@settings(max_examples=300)
@given(OBJECTS, st.booleans())
def test_a_line_is_read_as_python_reads_it(record, ascii_only):
    """The fast reader and Python's give one value; long numbers keep their digits where a tool may be given them."""
    line = json.dumps({**record, "tools": 10**25}, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert parse_line(line, "f:1") == json.loads(line)
    floats = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "replace")
    assert parse_line(floats, "f:1") == json.loads(
        floats, parse_int=lambda d: int(d) if -(2**63) <= int(d) < 2**64 else float(d)
    )
