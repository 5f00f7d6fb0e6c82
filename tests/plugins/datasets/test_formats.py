"""Records in JSON lines, JSON, CSV, Parquet and Arrow, compressed or not, and what is said of broken files."""

import csv
import gzip
import io
import json
import tracemalloc
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmx_datasets.tables import Quotes

CHAT = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
RECORDS = [
    {"id": 1, "text": "敏捷 🚀"},
    {"instruction": "do", "input": "this", "output": "done"},
    CHAT,
    {"text": 'with "quotes",\ncommas\tand lines'},
]


def packed(suffix, content):
    """Return bytes compressed as an ending says."""
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return gzip.compress(content) if suffix == ".gz" else content


def table_of(records):
    """Return records as a table, where each row has the columns of all."""
    names = list(dict.fromkeys(name for each in records for name in each))
    return pa.Table.from_pylist([{name: each.get(name) for name in names} for each in records])


def spelt(name, records):
    """Return records in a file of a kind, as bytes."""
    if name == "jsonl":
        return "".join(json.dumps(each) + "\n" for each in records).encode()
    if name == "json":
        return json.dumps(records, indent=1).encode()
    if name == "csv":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(dict.fromkeys(key for each in records for key in each)))
        writer.writeheader()
        writer.writerows(records)
        return file.getvalue().encode()
    sink, table = pa.BufferOutputStream(), table_of(records)
    if name == "parquet":
        parquet.write_table(table, sink, row_group_size=3)
    else:
        new = pa.ipc.new_file if name == "arrow" else pa.ipc.new_stream
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return sink.getvalue().to_pybytes()


def normal(documents):
    """Return text or turns of each document."""
    return [each.text or [(m.role, m.content) for m in each.messages] for each in documents]


MEANT = [
    "敏捷 🚀",
    [("user", "do\nthis"), ("assistant", "done")],
    [("user", "u"), ("assistant", "a")],
    'with "quotes",\ncommas\tand lines',
]
PLACES = {"jsonl": "{}:{}", "json": "{}[{}]", "parquet": "{}[{}]", "arrow": "{}[{}]", "stream": "{}[{}]"}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", PLACES)
def test_mixed_records_are_read_alike_from_every_kind_of_file(tmp_path, name, suffix, build, write):
    """Each record is read by its own form, and its place is named, also where a table gives it the others' columns."""
    if name == "parquet" and suffix:
        return
    kind = "arrow" if name == "stream" else name
    path = write(tmp_path / f"a.{kind}{suffix}", packed(suffix, spelt(name, RECORDS)))
    dataset = build(kind, path=tmp_path)
    assert normal(dataset) == MEANT == normal(dataset)
    first = 1 if name == "jsonl" else 0
    assert [Path(d.origin).name for d in dataset] == [PLACES[name].format(path.name, first + n) for n in range(4)]


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_a_table_gives_a_call_its_own_arguments_alone(tmp_path, name, build, write):
    """A table gives every call the arguments of all as columns; those that are null belong to other calls."""
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": "z"}}]
    record = {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}]}
    dataset = build(name, path=write(tmp_path / f"a.{name}", spelt(name, [record])))
    assert [list(each.messages[0].tool_calls) for each in dataset] == [calls]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".tsv.zst"])
def test_csv_is_read_as_text(tmp_path, suffix, build, write):
    """Numbers stay as they are written, cells may hold line ends, a byte-order mark and an empty cell do no harm."""
    rows = [["id", "instruction", "input", "output"], ["1", "Say\n07", "", "07"], ["x", '"No", I said', "é", "\t1e3"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t" if ".tsv" in suffix else ",").writerows(rows)
    content = packed(suffix[4:], b"\xef\xbb\xbf" + file.getvalue().encode())
    dataset = build("csv", path=write(tmp_path / f"a{suffix}", content))
    assert normal(dataset) == [
        [("user", "Say\n07"), ("assistant", "07")],
        [("user", '"No", I said\né'), ("assistant", "\t1e3")],
    ]
    assert [Path(each.origin).name for each in dataset] == [f"a{suffix}[0]", f"a{suffix}[1]"]


def test_a_delimiter_can_be_chosen(tmp_path, build, write):
    """`delimiter` goes before what the ending says."""
    path = write(tmp_path / "a.csv", "id;text\n1;one, two\n")
    assert normal(build("csv", path=path, delimiter=";")) == ["one, two"]


@pytest.mark.parametrize("name", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_text_field_chooses_the_field(tmp_path, name, build, write, fails):
    """The field that is named is taken, also where a usual one exists; null is an empty text."""
    records = [{"text": "no", "body": "yes"}, {"text": "no", "body": "" if name == "csv" else None}]
    path = write(tmp_path / f"a.{name}", spelt(name, records))
    assert normal(build(name, path=path, text_field="body")) == ["yes"]
    fails(build(name, path=path, text_field="boby"), "no field 'boby'; set data.text_field .*: text, body")


def test_a_line_ends_at_a_line_feed_only(tmp_path, build, write):
    """Carriage returns and U+2028 within a line do not shift the numbers, a byte-order mark does no harm."""
    text = '\ufeff{"text":\r "a\u2028b"}\r\n \r\n{"text": "c"}'
    dataset = build("jsonl", path=write(tmp_path / "a.jsonl", text))
    assert normal(dataset) == ["a\u2028b", "c"]
    assert [Path(each.origin).name for each in dataset] == ["a.jsonl:1", "a.jsonl:3"]


@pytest.mark.parametrize("name", ["parquet", "arrow", "csv"])
def test_a_table_goes_on_over_batches(tmp_path, name, build, write):
    """Rows are counted through all batches, row groups and blocks, in order."""
    records = [{"text": str(n), "other": "x" * 40} for n in range(1000)]
    dataset = build(name, path=write(tmp_path / f"a.{name}", spelt(name, records)))
    assert normal(dataset) == [str(n) for n in range(1000)]
    assert [Path(each.origin).name for each in dataset][-1] == f"a.{name}[999]"


@pytest.mark.parametrize("name", ["jsonl", "json"])
def test_memory_does_not_grow_with_the_file(tmp_path, name, build, write):
    """Reading 30 MB of records holds a few MB at a time."""
    record = json.dumps({"text": "word " * 200})
    content = "\n".join([record] * 30_000) if name == "jsonl" else f"[{','.join([record] * 30_000)}]"
    dataset = build(name, path=write(tmp_path / f"a.{name}", content))
    tracemalloc.start()
    try:
        assert sum(1 for _ in dataset) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


# --- bad input ------------------------------------------------------------------------------------------------------

BAD_LINES = [
    ('{"id": 1, "name": "x"}', r"a\.jsonl:2: no field is known.*data\.text_field.*: id, name$"),
    ('{"text": "cut off', r"a\.jsonl:2: not valid JSON: .*mend"),
    ("[1, 2]", r"a\.jsonl:2: a record must be an object with fields, not list"),
    ('{"text": 3}', r"a\.jsonl:2: text must be text, not int"),
    ('{"messages": ["hi"]}', r"a\.jsonl:2: messages must be a list of messages"),
    ('{"text": "\\ud800"}', r"a\.jsonl:2: text holds half a surrogate pair, \\ud800"),
    (b'{"text": "\xff"}', r"a\.jsonl:2: not valid UTF-8"),
    (b"\0\0\xff\0", r"a\.jsonl:2: binary data, not text"),
    (b"\xb1 a first line\n\0\1\n", r"a\.jsonl:2: binary data, not text"),
    ("[" * 100_000, r"a\.jsonl:2: JSON that cannot be read"),
    ("9" * 10_000, r"a\.jsonl:2: JSON that cannot be read"),
    ('{"text": "a"}{"text": "b"}', r"a\.jsonl:2: not valid JSON: Extra data"),
]


@pytest.mark.parametrize(("line", "pattern"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path, line, pattern, build, write, fails):
    """The message has the line's number, what is wrong with it and what to do; lines before it were given."""
    line = line if isinstance(line, bytes) else line.encode()
    dataset = build("jsonl", path=write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + line))
    assert next(iter(dataset)).text == "good"
    fails(dataset, pattern)


@pytest.mark.parametrize("name", ["jsonl", "json"])
def test_a_line_of_100_mb_is_refused_before_it_is_held(tmp_path, name, build, write, fails):
    """The error names the line; what is held stays near `max_line_bytes`; a higher limit reads it."""
    record = b'{"text": "' + b"x" * 100_000_000 + b'"}'
    content = b'{"text": "good"}\n' + record if name == "jsonl" else b'[{"text": "good"},\n' + record + b"]"
    path = write(tmp_path / f"a.{name}", content)
    tracemalloc.start()
    try:
        fails(build(name, path=path, max_line_bytes=8_000_000), rf"a\.{name}:2: a (line|record) of more than 8,000,000")
        assert tracemalloc.get_traced_memory()[1] < 80_000_000
    finally:
        tracemalloc.stop()
    fails(build(name, path=path), rf"a\.{name}:2: a (line|record) of more than 64,000,000 .*data\.max_line_bytes")
    assert sum(len(each.text) for each in build(name, path=path, max_line_bytes=200_000_000)) == 100_000_004


def test_a_bad_json_file_is_named(tmp_path, build, write, fails):
    """Broken JSON has its line; lines of records in a .json file are recognised; an element has its place."""
    fails(build("json", path=write(tmp_path / "a.json", '[\n{"text": "a"},\n{]')), r"a\.json:3: not valid JSON")
    both = "".join(json.dumps({"text": text}) + "\n" for text in "ab")
    fails(build("json", path=write(tmp_path / "b.json", both)), r'b\.json:2: .*set data\.name = "jsonl"')
    fails(build("json", path=write(tmp_path / "c.json", '[{"x": 1}]')), r"c\.json\[0\]: no field is known.*: x$")
    fails(build("json", path=write(tmp_path / "d.json", b'\n"\xff"')), r"d\.json:2: not valid UTF-8")
    fails(build("json", path=write(tmp_path / "e.json", "[{}, " + "[" * 100_000)), r"e\.json\[0\]: no field")
    fails(build("json", path=write(tmp_path / "f.json", "[" * 100_000)), r"f\.json:1: JSON that cannot be read")
    assert normal(build("json", path=write(tmp_path / "g.json", json.dumps(CHAT)))) == [MEANT[2]]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_off_compressed_file_is_named(tmp_path, suffix, build, write, fails):
    """A file that ends too early, and one that is not compressed, are errors of one line; an empty one has no text."""
    whole = packed(suffix, b"".join(json.dumps({"text": f"{n} {hash(str(n))}"}).encode() + b"\n" for n in range(9000)))
    path = tmp_path / f"a.jsonl{suffix}"
    for content in (whole[: len(whole) // 2], b"no compressed file, of some length"):
        fails(build("jsonl", path=write(path, content)), r"a\.jsonl\.\w+: cannot be read: .*check the file")
    fails(build("jsonl", path=write(path, b"")), "hold no text")


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_a_damaged_table_is_named(tmp_path, name, build, write, fails):
    """A file without its end, one with damage inside and one of another kind are errors of one line."""
    whole = spelt(name, [{"text": f"some words {n} {hash(str(n))}"} for n in range(5000)])
    path = tmp_path / f"a.{name}"
    damaged = whole[:100] + b"\xff" * 20000 + whole[20100:]
    for content in (whole[: len(whole) // 2], damaged, b"", b"neither of the two kinds"):
        fails(build(name, path=write(path, content)), rf"a\.{name}\[\d+\]: no whole \w+ file: .*fetch it again")


def test_offsets_that_point_elsewhere_do_not_crash(tmp_path, build, write, fails):
    """An Arrow file whose bytes say that a text is far longer than the file is an error, not the end of the process."""
    whole = spelt("arrow", [{"text": "words"} for _ in range(8)])
    offsets = b"".join(int(5 * n).to_bytes(4, "little") for n in range(9))
    assert whole.count(offsets[4:16]) >= 1
    broken = whole.replace(offsets[4:16], b"\xff\xff\xff\x7f" * 3)
    fails(build("arrow", path=write(tmp_path / "a.arrow", broken)), r"a\.arrow\[0\]: no whole Arrow file")


@pytest.mark.parametrize("name", ["parquet", "arrow", "csv"])
def test_a_table_without_text_names_its_columns(tmp_path, name, build, write, fails):
    """The columns found are listed."""
    path = write(tmp_path / f"a.{name}", spelt(name, [{"id": 1, "title": "x"}]))
    fails(build(name, path=path), rf"a\.{name}\[0\]: no field is known.*: id, title$")


@pytest.mark.parametrize("name", ["parquet", "arrow", "csv"])
def test_bad_utf8_in_a_table_is_named(tmp_path, name, build, write, fails):
    """A column of text that is not UTF-8 is an error that says so."""
    if name == "csv":
        content = b"text\ngood\nbad \xff\n"
    else:
        bad = pa.StringArray.from_buffers(
            2, pa.py_buffer(b"\0\0\0\0\4\0\0\0\x08\0\0\0"), pa.py_buffer(b"goodba\xff\xff")
        )
        sink, table = pa.BufferOutputStream(), pa.table({"text": bad})
        if name == "parquet":
            parquet.write_table(table, sink)
        else:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        content = sink.getvalue().to_pybytes()
    fails(build(name, path=write(tmp_path / f"a.{name}", content)), rf"a\.{name}\[0\]: .*(?i:utf-?8)")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("text,id\na,1\nb,1,2\n", r"Expected 2 columns, got 3"),
        ('text\n"open\n' + "word\n" * 4_000_000, r"a row of more than 2,097,152 bytes, or a quote that is not closed"),
    ],
)
def test_a_broken_csv_is_named(tmp_path, content, pattern, build, write, fails):
    """A row with too many cells, and a quote that swallows the file, are errors of one line."""
    fails(build("csv", path=write(tmp_path / "a.csv", content)), rf"a\.csv\[\d+\]: no whole CSV file: .*{pattern}")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text\na\n"never closed\n' + "a good row\n" * 1000, 3),
        ('text,other\na,"x ""y\n"\nb,"c ""\n', 4),
        ('text,other\na,""",\n', 2),
        ('\ufefftext,other\n5" disks,6" disks and 7"\n"a ""quoted"" word","b\n"\n"","c"', None),
        ('\ufeff"text","other"\r\n"two\r\nlines",5"\r\n', None),
    ],
)
def test_a_quote_that_swallows_rows_is_named(tmp_path, content, line, build, write, fails):
    """One that is never closed has its line, however the file is cut; within a cell a quote is a character."""
    path = write(tmp_path / "a.csv", content)
    if line is not None:
        fails(build("csv", path=path), rf"a\.csv:{line}: a quote is opened here and never closed; mend")
    else:
        assert len(list(build("csv", path=path))) in (1, 2)
    for size in range(4, 12):
        quotes = Quotes(io.BytesIO(content.encode()), ",")
        assert b"".join(iter(partial(quotes.read, size), b"")) == content.encode()
        assert quotes.open_line == line


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b'{"text": "\xb2\xe8"}\n', "not valid UTF-8; convert it by `llmx data clean`, or as with iconv"),
        (b'{"text": "cut\n', "Unterminated string starting at column 10; mend the file, or have `llmx data clean`"),
    ],
)
def test_a_file_that_can_be_cleaned_names_the_command(tmp_path, build, write, fails, content, advice):
    """Bytes of another encoding and broken lines are what `llmx data clean` is for."""
    fails(build("jsonl", path=write(tmp_path / "a.jsonl", content)), advice)
