"""The built-in datasets: what they read, in which order, and what they say of a file that is wrong."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import llmx_datasets
from llmx.errors import DataError
from llmx.options import describe, structure
from llmx_datasets import python_docs
from llmx_datasets.text import split_stream

COMPONENTS = {each.name: each for each in llmx_datasets.llmx_datasets()}


def build(name, **values):
    """Build a dataset as a run does: structured options, loaded target."""
    options, faults = structure(
        COMPONENTS[name].options, {k: str(v) if k == "path" else v for k, v in values.items()}, "data"
    )
    assert not faults
    return COMPONENTS[name].load()(options)


def texts(dataset):
    """Return the texts of a dataset, read twice to see that they come again."""
    found = [each.text for each in dataset]
    assert [each.text for each in dataset] == found
    return found


def names(dataset):
    """Return the origins without their folder."""
    return [Path(each.origin).name for each in dataset]


def write(path, content):
    """Write text or bytes and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(*records):
    """Return records as lines."""
    return "".join(json.dumps(each) + "\n" for each in records)


def one_line_error(dataset, pattern):
    """Read a dataset that must fail, with a message of one line."""
    with pytest.raises(DataError, match=pattern) as caught:
        list(dataset)
    assert "\n" not in str(caught.value)


def test_importing_the_plugin_imports_nothing_heavy():
    """Names and options of all datasets are read without torch and pyarrow."""
    code = "import sys, llmx_datasets as p; print(len(p.llmx_datasets()), {'torch', 'pyarrow'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["5", "set()"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_explains_its_options(name):
    """The target exists and no option is without a meaning; a file dataset asks for its path."""
    assert callable(COMPONENTS[name].load())
    assert all(option.meaning for option in describe(COMPONENTS[name].options))
    faults = [each.path for each in structure(COMPONENTS[name].options, {}, "data")[1]]
    assert faults == ([] if name == "python-docs" else ["data.path"])


# --- which files ----------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_files_sorted(tmp_path):
    """A folder is searched below for the dataset's endings, in any case; hidden and other files are not read."""
    for name in ("b.txt", "a/z.MD", "a.txt", ".git/x.txt", "c.csv"):
        write(tmp_path / name, name)
    assert texts(build("text", path=tmp_path)) == ["a/z.MD", "a.txt", "b.txt"]


def test_a_pattern_gives_its_files_sorted(tmp_path):
    """`**` reaches into folders; an exact file name wins over its reading as a pattern."""
    for name in ("b.txt", "a/z.txt", "c.csv", "[x].txt"):
        write(tmp_path / name, name)
    assert texts(build("text", path=tmp_path / "**/[ab].txt")) == ["b.txt"]
    assert texts(build("text", path=tmp_path / "**/*.txt")) == ["[x].txt", "a/z.txt", "b.txt"]
    assert texts(build("text", path=tmp_path / "[x].txt")) == ["[x].txt"]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """`~` is expanded as a shell does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "a.txt", "at home")
    assert texts(build("text", path="~/a.txt")) == ["at home"]


def test_a_path_to_nothing_is_an_error(tmp_path):
    """A missing file, an empty folder and a pattern without match each say so before anything is read."""
    with pytest.raises(DataError, match=r"data\.path = .*nope.*: no such file or folder"):
        build("text", path=tmp_path / "nope")
    with pytest.raises(DataError, match=r"holds no file that ends in \.jsonl or \.ndjson"):
        build("jsonl", path=tmp_path)
    with pytest.raises(DataError, match=r"no file matches the pattern"):
        build("parquet", path=tmp_path / "*.parquet")


def test_files_without_text_are_an_error(tmp_path):
    """White space is no document, and a corpus of none is an error."""
    write(tmp_path / "a.txt", " \n\t")
    one_line_error(build("text", path=tmp_path), "hold no text")


def test_limit_takes_the_first_documents(tmp_path):
    """`limit` counts documents, not lines: blank ones do not count."""
    path = write(tmp_path / "a.jsonl", jsonl({"text": "a"}, {"text": " "}, {"text": "b"}, {"text": "c"}))
    assert names(build("jsonl", path=path, limit=2)) == ["a.jsonl:1", "a.jsonl:3"]


def test_the_fingerprint_follows_the_files_and_the_options(tmp_path):
    """It is the same for the same files, and another for another size, time, option or dataset."""
    path = write(tmp_path / "a.txt", "one")
    first = build("text", path=path).fingerprint()
    assert build("text", path=path).fingerprint() == first
    prints = {first, build("text", path=path, limit=1).fingerprint(), build("jsonl", path=path).fingerprint()}
    write(path, "three")
    prints.add(build("text", path=path).fingerprint())
    os.utime(path, ns=(1, 1))
    prints.add(build("text", path=path).fingerprint())
    assert len(prints) == 5


# --- text -----------------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(tmp_path):
    """A byte-order mark is no text; white space at the ends is kept."""
    dataset = build("text", path=write(tmp_path / "a.txt", b"\xef\xbb\xbf a\n\nb\n"))
    assert texts(dataset) == [" a\n\nb\n"]
    assert names(dataset) == ["a.txt"]


def test_a_separator_makes_documents(tmp_path):
    """Documents are numbered as they stand in the file; blank ones keep their number and are left out."""
    path = write(tmp_path / "a.txt", "one<|endoftext|>\n<|endoftext|>two<|endoftext|>")
    dataset = build("text", path=path, separator="<|endoftext|>")
    assert texts(dataset) == ["one", "two"]
    assert names(dataset) == ["a.txt#1", "a.txt#3"]


@settings(max_examples=200, deadline=None)
@given(st.text("ab\n", max_size=30), st.sampled_from(["\n", "\n\n", "ab", "aba"]), st.integers(1, 7))
def test_splitting_in_a_stream_is_splitting(text, separator, chunk):
    """Wherever the chunks end, the parts are those of `str.split`."""
    assert list(split_stream(io.StringIO(text, newline=""), separator, chunk)) == text.split(separator)


# --- records --------------------------------------------------------------------------------------------------------

FORMS = [
    ({"id": 1, "text": "t"}, "t"),
    ({"content": "c"}, "c"),
    ({"instruction": "do", "input": "this", "output": "done"}, "do\n\nthis\n\ndone"),
    ({"instruction": "do", "input": "", "output": "done"}, "do\n\ndone"),
    ({"instruction": "do", "output": "done"}, "do\n\ndone"),
    ({"query": "q", "response": "r"}, "q\n\nr"),
    ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "u\n\na"),
    ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}, "u\n\na"),
]


@pytest.mark.parametrize(("record", "text"), FORMS)
def test_the_usual_records_are_recognised(tmp_path, record, text):
    """JSON lines, a JSON array, a single JSON object and a Parquet table give the same text and name its place."""
    write(tmp_path / "a.jsonl", "\n" + json.dumps(record))
    write(tmp_path / "many.json", json.dumps([{"text": " "}, record], indent=1))
    write(tmp_path / "one.json", json.dumps(record))
    parquet.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    found = {}
    for name in ("jsonl", "json", "parquet"):
        found |= {Path(each.origin).name: each.text for each in build(name, path=tmp_path)}
    assert found == dict.fromkeys(["a.jsonl:2", "many.json[1]", "one.json[0]", "a.parquet[0]"], text)


@pytest.mark.parametrize("name", ["jsonl", "json", "parquet"])
def test_text_field_chooses_the_field(tmp_path, name):
    """The field that is named is taken, also where a usual one exists; null is an empty text."""
    records = [{"text": "no", "body": "yes"}, {"text": "no", "body": None}]
    path = tmp_path / f"a.{name}"
    if name == "parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        write(path, jsonl(*records) if name == "jsonl" else json.dumps(records))
    assert texts(build(name, path=path, text_field="body")) == ["yes"]
    one_line_error(build(name, path=path, text_field="boby"), "no field 'boby'; set data.text_field .*: text, body")


def test_a_line_ends_at_a_line_feed_only(tmp_path):
    """Carriage returns and U+2028 within a line do not shift the numbers, a byte-order mark does no harm."""
    lines = '\ufeff{"text":\r "a\u2028b"}\r\n{"text": "c"}'
    dataset = build("jsonl", path=write(tmp_path / "a.jsonl", lines))
    assert texts(dataset) == ["a\u2028b", "c"]
    assert names(dataset) == ["a.jsonl:1", "a.jsonl:2"]


def test_parquet_goes_on_over_batches(tmp_path):
    """Rows are counted through all batches and row groups, in order."""
    table = pa.table({"text": [str(n) for n in range(1000)], "other": [b"x"] * 1000})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    dataset = build("parquet", path=tmp_path / "a.parquet")
    assert texts(dataset) == [str(n) for n in range(1000)]
    assert names(dataset)[-1] == "a.parquet[999]"


BAD_LINES = [
    ('{"id": 1, "name": "x"}', r"a\.jsonl:2: no field is known.*data\.text_field.*: id, name$"),
    ('{"text": "cut off', r"a\.jsonl:2: not valid JSON: .*mend"),
    ("[1, 2]", r"a\.jsonl:2: a record must be an object with fields, not list"),
    ('{"text": 3}', r"a\.jsonl:2: text must be text, not int"),
    ('{"messages": ["hi"]}', r"a\.jsonl:2: messages must be a list of messages"),
    ('{"text": "\\ud800"}', r"a\.jsonl:2: text holds half a surrogate pair, \\ud800"),
    (b'{"text": "\xff"}', r"a\.jsonl:2: not valid UTF-8"),
    ("[" * 100_000, r"a\.jsonl:2: JSON that cannot be read"),
    ("9" * 10_000, r"a\.jsonl:2: JSON that cannot be read"),
]


@pytest.mark.parametrize(("line", "pattern"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path, line, pattern):
    """The message has the line's number, what is wrong with it and what to do; lines before it were given."""
    line = line if isinstance(line, bytes) else line.encode()
    dataset = build("jsonl", path=write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + line))
    assert next(iter(dataset)).text == "good"
    one_line_error(dataset, pattern)


def test_a_bad_json_file_is_named(tmp_path):
    """Broken JSON has its line; lines of records in a .json file are recognised; an element has its place."""
    one_line_error(
        build("json", path=write(tmp_path / "a.json", '[\n{"text": "a"},\n{]')), r"a\.json:3: not valid JSON"
    )
    lines = write(tmp_path / "b.json", jsonl({"text": "a"}, {"text": "b"}))
    one_line_error(build("json", path=lines), r'b\.json:2: .*set data\.name = "jsonl"')
    one_line_error(
        build("json", path=write(tmp_path / "c.json", '[{"x": 1}]')), r"c\.json\[0\]: no field is known.*: x$"
    )
    one_line_error(build("json", path=write(tmp_path / "d.json", b'\n"\xff"')), r"d\.json:2: not valid UTF-8")


def test_bad_utf8_in_text_is_named_by_its_line(tmp_path):
    """Whole and in parts, the line of the first bad byte is given."""
    path = write(tmp_path / "a.txt", b"good\n\ngood\nbad \xff\n")
    for separator in (None, "\n\n"):
        one_line_error(build("text", path=path, separator=separator), r"a\.txt:4: not valid UTF-8; convert")


def test_a_cut_off_parquet_file_is_named(tmp_path):
    """A file without its footer, one with damage inside and one of another kind are errors of one line."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"some words {n}" for n in range(5000)]}), path)
    whole = path.read_bytes()
    damaged = whole[:100] + b"\xff" * 20000 + whole[20100:]
    for content in (whole[: len(whole) // 2], damaged, b"", b"no parquet at all"):
        one_line_error(
            build("parquet", path=write(path, content)), r"a\.parquet\[\d+\]: no whole Parquet file: .*fetch"
        )


def test_a_parquet_table_without_text_names_its_columns(tmp_path):
    """The columns found are listed."""
    parquet.write_table(pa.table({"id": [1], "title": ["x"]}), tmp_path / "a.parquet")
    one_line_error(build("parquet", path=tmp_path), r"a\.parquet\[0\]: no field is known.*: id, title$")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    """A missing permission is an error of one line."""
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    one_line_error(build("text", path=path), r"a\.txt: cannot be read: Permission denied")


def test_a_file_that_vanished_is_named(tmp_path):
    """A file that goes away between building and reading is an error of one line."""
    dataset = build("text", path=write(tmp_path / "a.txt", "x"))
    (tmp_path / "a.txt").unlink()
    one_line_error(dataset, r"a\.txt: cannot be read: No such file")


# --- python-docs ----------------------------------------------------------------------------------------------------


def test_python_docs_are_english_of_some_size():
    """More than half a megabyte, no paragraph twice, no doctest; the same when read again."""
    dataset = build("python-docs")
    found = texts(dataset)
    paragraphs = "\n\n".join(found).split("\n\n")
    assert sum(map(len, found)) > 500_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert not re.search(r"^>>>", "\n".join(found), re.MULTILINE)
    assert sum(text.count(" the ") for text in found) > 5000
    assert dataset.fingerprint() == build("python-docs").fingerprint() != build("python-docs", limit=1).fingerprint()


@pytest.fixture
def _anew():
    """Nothing is remembered of another Python's library."""
    python_docs.all_documents.cache_clear()
    yield
    python_docs.all_documents.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_python_docs_run_nothing(tmp_path, monkeypatch):
    """A module is parsed and not imported; tests, other packages and what is no Python are passed over."""
    prose = '"""Words about this module in a sentence of some length."""\n'
    write(
        tmp_path / "a.py", prose + "raise SystemExit\ndef f():\n    'Another sentence of more than forty characters.'"
    )
    write(tmp_path / "test/b.py", prose)
    write(tmp_path / "site-packages/c.py", prose)
    write(tmp_path / "d.py", "this is no Python {{")
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(python_docs, "LEAST_BYTES", 1)
    monkeypatch.setattr(python_docs, "topics", list)
    assert texts(build("python-docs")) == [
        "Words about this module in a sentence of some length.\n\nAnother sentence of more than forty characters."
    ]


@pytest.mark.usefixtures("_anew")
def test_a_python_without_docstrings_is_an_error(tmp_path, monkeypatch):
    """Where there is hardly any text the message asks for data.path."""
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(python_docs, "topics", list)
    one_line_error(build("python-docs"), r"without its docstrings; .*data\.path")


def test_python_docs_do_without_topics(monkeypatch):
    """A Python that lacks `pydoc_data` gives docstrings alone."""
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert python_docs.topics() == []
