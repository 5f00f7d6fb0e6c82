"""Plain text: documents, separators, long files cut into parts, and ChatML."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx_datasets.text import cut_point, line_feeds, parts

CHAT = """\
<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
Hi

you<|im_end|>
<|im_start|>assistant
Hello<|im_end|>
"""


def names(dataset):
    """Return the origins without their folder."""
    return [Path(each.origin).name for each in dataset]


def said(document):
    """Return role and content of each turn."""
    return [(each.role, each.content) for each in document.messages]


def in_pieces(content, size):
    """Return bytes in pieces."""
    return [content[at : at + size] for at in range(0, len(content), size)] or [b""]


def test_a_text_file_is_one_document(tmp_path, build, write):
    """A byte-order mark is no text; white space at the ends is kept; every line end is a line feed."""
    dataset = build("text", path=write(tmp_path / "a.txt", b"\xef\xbb\xbf a\r\n\rb\n"))
    assert [each.text for each in dataset] == [" a\n\nb\n"]
    assert names(dataset) == ["a.txt"]


def test_a_separator_makes_documents(tmp_path, build, write):
    """Documents are numbered as they stand in the file; blank ones keep their number and are left out."""
    path = write(tmp_path / "a.txt", "one<|endoftext|>\n<|endoftext|>two<|endoftext|>")
    dataset = build("text", path=path, separator="<|endoftext|>")
    assert [each.text for each in dataset] == ["one", "two"]
    assert names(dataset) == ["a.txt#1", "a.txt#3"]


@settings(max_examples=300)
@given(st.text("ab\n", max_size=30), st.sampled_from(["\n", "\n\n", "ab", "aba"]), st.integers(1, 7))
def test_splitting_in_a_stream_is_splitting(text, separator, size):
    """Wherever the pieces end, the parts are those of `str.split`."""
    found = parts(in_pieces(text.encode(), size), separator.encode(), 1000)
    assert [each.decode() for each in found] == text.split(separator)


@settings(max_examples=300)
@given(st.text("a\r\n", max_size=20), st.integers(1, 5))
def test_line_ends_in_a_stream_are_line_feeds(text, size):
    """Wherever the pieces end, the lines are those of Python's text files."""
    assert (
        b"".join(line_feeds(in_pieces(text.encode(), size)))
        == "\n".join(text.replace("\r\n", "\n").split("\r")).encode()
    )


@settings(max_examples=300)
@given(
    st.text("aé敏🚀 \n", max_size=80), st.integers(1, 50), st.integers(16, 40), st.sampled_from([None, "aé", "\n\n"])
)
def test_a_long_text_is_cut_alike_however_it_is_read(text, size, most, separator):
    """Nothing is lost, no letter is cut, no part is much too long, and the pieces of a read do not show."""
    end = None if separator is None else separator.encode()
    content = text.encode()
    found = list(parts(in_pieces(content, size), end, most))
    assert found == list(parts([content], end, most))
    assert all(len(each) <= most + len(end or b"") for each in found)
    assert "".join(each.decode() for each in found) == (text.replace(separator, "") if separator else text)


def test_a_cut_is_made_where_a_reader_would():
    """Between paragraphs near the end, else between lines, else between words, else between letters."""
    assert cut_point(b"one two\nthree\n\nfour") == len(b"one two\nthree\n\n")
    assert cut_point(b"o\n\ne two\nthree four") == len(b"o\n\ne two\nthree ")
    assert cut_point(b"one\n\ntwo three\nfour") == len(b"one\n\ntwo three\n")
    assert cut_point(b"one two threefour") == len(b"one two threefour")
    assert cut_point("敏捷".encode()[:-1]) == 3
    assert cut_point("ab🚀".encode()) == 6


def test_a_long_file_is_cut_into_documents(tmp_path, build, write):
    """A file below `part_bytes` is whole; a longer one comes in numbered parts that make up the file."""
    text = "".join(f"Paragraph {n}.\n\n" for n in range(1000))
    path = write(tmp_path / "a.txt", text)
    assert names(build("text", path=path, part_bytes=len(text))) == ["a.txt"]
    dataset = build("text", path=path, part_bytes=len(text) - 1)
    assert names(dataset) == ["a.txt#1", "a.txt#2"]
    assert "".join(each.text for each in dataset) == text
    assert all(each.text.endswith(".\n\n") for each in build("text", path=path, part_bytes=500))


def test_bad_utf8_in_text_is_named_by_its_line(tmp_path, build, write, fails):
    """Whole and in parts, the line of the first bad byte is given; binary data is called so."""
    path = write(tmp_path / "a.txt", b"good\n\ngood\nbad \xff\n")
    for separator in (None, "\n\n"):
        fails(build("text", path=path, separator=separator), r"a\.txt:4: not valid UTF-8; convert")
    fails(build("text", path=write(path, "cut off é".encode()[:-1])), r"a\.txt:1: not valid UTF-8")
    fails(build("text", path=write(path, b"x\n\0\0\xff")), r"a\.txt:2: binary data, not text")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x1f\x8b\x08\0", r"a gzip file; give it a name that ends in \.gz"),
        (b"PAR1\x15", 'a Parquet file; set data.name = "parquet"'),
        ("Text".encode("utf-16"), "text in UTF-16; convert"),
        (b"%PDF-1.7", "a PDF; extract"),
    ],
)
@pytest.mark.parametrize("name", ["text", "jsonl", "json", "csv"])
def test_other_kinds_of_file_are_recognised(tmp_path, name, content, kind, build, write, fails):
    """What begins as a known kind of file is called by its name, whatever ending it was given."""
    fails(
        build(name, path=write(tmp_path / f"a.{name}", content)), rf"/a\.{name}(\[0\])?: not text in UTF-8 but {kind}"
    )


# --- ChatML ---------------------------------------------------------------------------------------------------------


def test_a_text_of_chatml_is_chats(tmp_path, build, write):
    """A system turn, a blank line and <|endoftext|> begin a chat; blank lines within a turn are its content."""
    second = "<|im_start|>user\n天气？<|im_end|>\n<|im_start|>assistant\n晴<|im_end|>\n"
    path = write(tmp_path / "chatML.txt", CHAT + CHAT + "\n\n" + second + "<|endoftext|>\n" + second.strip())
    documents = list(build("text", path=path))
    first = [("system", "Be brief."), ("user", "Hi\n\nyou"), ("assistant", "Hello")]
    assert [said(each) for each in documents] == [first, first] + [[("user", "天气？"), ("assistant", "晴")]] * 2
    assert names(documents) == ["chatML.txt:1", "chatML.txt:9", "chatML.txt:19", "chatML.txt:24"]
    assert all(each.text == "" for each in documents)


def test_format_decides_what_a_text_file_is(tmp_path, build, write, fails):
    """The marks are text where format says so, and plain text is no chat where it must be one."""
    path = write(tmp_path / "a.txt", CHAT)
    assert [each.text for each in build("text", path=path, format="text")] == [CHAT]
    fails(build("text", path=write(path, "Once."), format="chatml"), r"a\.txt:1: ChatML with 'Once\.'.*data\.format")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("<|im_start|>user\nHi\n", r"a\.txt:1: ChatML with '<\|im_start\|>user' where a whole turn"),
        (CHAT + "\nstray\n", r"a\.txt:10: ChatML with 'stray'"),
        (CHAT + "\n<|im_start|>robot\nHi<|im_end|>", r"a\.txt:10: ChatML with the role 'robot'"),
        ("<|im_start|>user\nHi\n<|im_start|>assistant\nHo<|im_end|>", r"a\.txt:1: .*turn of user that does not end"),
        ("<|im_start|>user\n" + "word\n" * 20, r"a\.txt:1: a chat of more than 64 characters"),
    ],
)
def test_broken_chatml_is_named(tmp_path, text, pattern, build, write, fails):
    """A turn that does not end, text between turns, an unknown role and a chat without end name their line."""
    most = 64 if "word" in text else 4_000_000
    fails(build("text", path=write(tmp_path / "a.txt", text), part_bytes=most), pattern)
