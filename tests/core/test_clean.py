"""`llmx data clean`: what is kept, what is rejected and why, and that a kill changes no byte."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmx.data.clean import CleanOptions, clean, raw, read, run, values
from llmx.data.clean.near import MinHash, jaccard, shingles_of, units_of
from llmx.data.clean.seen import KeyTable
from llmx.data.clean.texts import clean_text
from llmx.data.lengths import Lengths, bars
from llmx.errors import DataError, LlmxError, RecipeError

ZH = "中文维基百科是维基百科协作计划的中文版本，自2002年10月24日正式成立，由非营利组织维基媒体基金会负责维持。"

Rows = list[dict[str, Any]]


def rows(path: Path) -> Rows:
    """Return the records of a JSONL file, none of which may be blank."""
    return [json.loads(line) for line in path.read_bytes().decode("utf-8").removesuffix("\n").split("\n") if line]


def cleaned(tmp_path: Path, content: bytes | str, name: str = "in.jsonl", **options: Any) -> tuple[Rows, Rows]:
    """Clean one file and return what was kept and what was rejected."""
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    for path in (tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"):
        path.unlink(missing_ok=True)
    tally = clean([str(source)], tmp_path / "out.jsonl", CleanOptions(**options))
    beside = {"rejects.jsonl"} if tally.rejected else set()
    kept, rejected = rows(tmp_path / "out.jsonl"), rows(tmp_path / "rejects.jsonl") if beside else []
    assert (tally.kept, tally.records) == (len(kept), len(kept) + len(rejected))
    assert {path.name for path in tmp_path.iterdir()} - {"b"} == {name, "out.jsonl", *beside}
    return kept, rejected


def test_every_reason(tmp_path: Path) -> None:
    """Each fault of a record is told with its line, and the records around it are kept as they were written."""
    lines = [
        b'{"text": "The first record, kept.", "n": 1.50}',
        b"",
        b'{"text": "cut short',
        b'["a list"]',
        b'{"body": "a field that is not known"}',
        b'{"text": "half \\ud800 of a pair"}',
        b'{"text": " \\t\\n "}',
        b'{"text": "tiny"}',
        b'{"text": "' + b"long " * 30 + b'"}',
        b'{"text":  "The  first record,\\n kept. "}',
        b'{"text": "a broken \xe4\xb8 byte"}',
        b'{"text": "not JSON", "loss": NaN}',
        b'{"text": "too large", "loss": 1e999}',
        b'{"text": "' + b"[" * 10 + b'", "deep": ' + b"[" * 100_000 + b"}",
        b'{"text":"The last record, kept.","id":"\\ud83d"}',
    ]
    kept, rejected = cleaned(tmp_path, b"\r\n".join(lines), max_chars=100)
    assert (tmp_path / "out.jsonl").read_bytes() == lines[0] + b"\n" + lines[-1] + b"\n"
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (3, "broken-json"),
        (4, "no-object"),
        (5, "no-text-field"),
        (6, "half-character"),
        (7, "empty"),
        (8, "too-short"),
        (9, "too-long"),
        (10, "duplicate"),
        (11, "encoding"),
        (12, "broken-json"),
        (13, "broken-json"),
        (14, "broken-json"),
    ]
    assert rejected[7]["detail"] == "of record 1"
    assert rejected[8] == {
        "file": str(tmp_path / "in.jsonl"),
        "line": 11,
        "reason": "encoding",
        "detail": "byte 0xe4 at 19 is not utf-8",
        "start": '{"text": "a broken \\xe4\\xb8 byte"}\r',
    }
    assert [row["text"] for row in kept] == ["The first record, kept.", "The last record, kept."]


def test_texts_are_cleaned_and_the_rest_is_kept(tmp_path: Path) -> None:
    """In any form of record the texts alone change: roles, calls, numbers and other fields stay."""
    chat = {
        "messages": [
            {"role": "user", "content": "Cafe\u0301?\r\n \r\n"},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes\x00.  "}], "tool_calls": [{"id": "\x07 "}]},
        ],
        "weight": 0.25,
    }
    other = {"instruction": "A\u200d", "input": None, "output": "B\ufeff and more", "note": "\x01 stays "}
    pairs = {"history": [["one  \n", "two"]], "query": "three", "response": "four", "id": 7}
    kept, rejected = cleaned(tmp_path, "\n".join(map(json.dumps, (chat, other, pairs))))
    assert rejected == []
    assert kept[0]["messages"][0] == {"role": "user", "content": "Café?"}
    assert kept[0]["messages"][1] == {**chat["messages"][1], "content": [{"type": "text", "text": "Yes."}]}
    assert kept[0]["weight"] == 0.25
    assert kept[1] == {**other, "output": "B and more"}
    assert kept[2] == {**pairs, "history": [["one", "two"]]}
    named, _ = cleaned(tmp_path, json.dumps({"text": "left \x00 as it is", "body": "looked at \x00"}), fields=("body",))
    assert named == [{"text": "left \x00 as it is", "body": "looked at"}]


@pytest.mark.parametrize(
    ("text", "wanted", "options"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", {}),
        ("a\x00\x1b\x85\ufeff\ufffe\U0001fffftab\tend", "atab\tend", {}),
        ("a\x00b ", "a\x00b", {"control": False}),
        ("e\u0301 ﬁ Ａ", "é ﬁ Ａ", {}),
        ("e\u0301 ﬁ Ａ", "é fi A", {"normal_form": "NFKC"}),
        ("e\u0301", "e\u0301", {"normal_form": "none"}),
        ("\n\n    indented  \n\n\n\n\nend \u3000\n", "    indented\n\n\nend", {}),
        (" a \n", " a \n", {"whitespace": False}),
        ("family 👨\u200d👩\u200d👧 می\u200cخواهم", "family 👨\u200d👩\u200d👧 می\u200cخواهم", {}),
    ],
)
def test_a_text_made_normal(text: str, wanted: str, options: dict[str, Any]) -> None:
    """Each step does what its option says, alone, and a clean text does not change again."""
    found = clean_text(text, CleanOptions(**options))
    assert found == wanted
    assert clean_text(found, CleanOptions(**options)) == found


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "big5", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.txt"])
def test_encodings_that_are_certain(tmp_path: Path, encoding: str, name: str) -> None:
    """A file in another encoding gives the texts of the same file in UTF-8."""
    texts = [text for text in ZH.replace("维", "維").replace("、", "，").split("，") for _ in range(1)]
    texts = [text.encode("big5", "ignore").decode("big5") * 3 for text in texts]
    if name == "in.txt":
        content = "\n\n".join(texts)
    elif name == "in.json":
        content = json.dumps([{"text": text} for text in texts], ensure_ascii=False, indent=1)
    else:
        content = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    if name == "in.txt" and encoding in ("utf-16-le", "utf-16-be"):  # without a mark it is ASCII that tells it
        texts.insert(0, "The first text is in English.")
        content = "\n\n".join(texts)
    kept, rejected = cleaned(tmp_path, content.encode(encoding), name, separator="\n\n", near=0.0)
    assert [row["text"] for row in kept] == texts
    assert rejected == []


def test_encodings_that_are_not_certain(tmp_path: Path) -> None:
    """Latin-1 and a damaged line are rejected, not guessed; what the user says counts."""
    french = "\n".join(
        json.dumps({"text": f"{n} élèves étaient très heureux à l'école"}, ensure_ascii=False) for n in "12"
    )
    kept, rejected = cleaned(tmp_path, french.encode("latin-1"))
    assert kept == []
    assert [row["reason"] for row in rejected] == ["encoding"] * 2
    kept, rejected = cleaned(tmp_path, french.encode("latin-1"), encoding="latin-1")
    assert [row["text"] for row in kept] == [json.loads(line)["text"] for line in french.split("\n")]
    lines = [json.dumps({"text": f"{ZH}{n}"}, ensure_ascii=False).encode() for n in range(9)]
    lines[4] = lines[4].replace("中".encode(), "中".encode()[:2])
    kept, rejected = cleaned(tmp_path, b"\n".join(lines), near=0.0)
    assert len(kept) == 8
    assert [(row["line"], row["reason"]) for row in rejected] == [(5, "encoding")]
    foreign = [json.dumps({"text": f"{n} {ZH}"}, ensure_ascii=False).encode("gb18030") for n in range(9)]
    kept, rejected = cleaned(tmp_path, b"\n".join([*lines[:4], *foreign[:3]]), near=0.0)
    assert [row["text"] for row in kept] == [f"{ZH}{n}" for n in range(4)]
    assert [row["reason"] for row in rejected] == ["encoding"] * 3
    kept, rejected = cleaned(tmp_path, b"\n".join([lines[0], *foreign, lines[1]]), near=0.0)
    assert [row["text"] for row in kept] == [f"{ZH}0", *(f"{n} {ZH}" for n in range(9)), f"{ZH}1"]
    assert rejected == []
    with pytest.raises(RecipeError, match=r"--encoding klingon: no such encoding"):
        cleaned(tmp_path, french, encoding="klingon")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: bytes(pa.Codec("zstd").compress(pa.py_buffer(data)))])
def test_packed_files(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """They are told by their first bytes; one that is cut gives what came before, and one counted reject."""
    draw = random.Random(1)
    texts = ["".join(draw.choices("abcdefghij ", k=100)).strip() for _ in range(3_000)]
    content = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    kept, rejected = cleaned(tmp_path, pack(content), "in.jsonl.gz", whitespace=False)
    assert [row["text"] for row in kept] == texts
    packed = pack(content)
    kept, rejected = cleaned(tmp_path, packed[: len(packed) * 2 // 3], "in.jsonl.gz", whitespace=False)
    assert [row["text"] for row in kept] == texts[: len(kept)]
    assert len(kept) > 1_000
    assert rejected[-1]["reason"] == "unreadable"
    assert len(rejected) <= 2  # and perhaps the line that was cut


def test_other_files(tmp_path: Path) -> None:
    """A table, an unknown ending and a pattern without a match are said at once, with nothing written."""
    for name, content, message in (
        ("a.jsonl", b"PAR1....", r"a\.jsonl: is a Parquet file"),
        ("a.csv", b"text", r"a\.csv: must end in \.jsonl"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            clean([str(tmp_path / name)], tmp_path / "out.jsonl", CleanOptions())
        assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(DataError, match=r"none\*\.jsonl: no such file"):
        clean([str(tmp_path / "none*.jsonl")], tmp_path / "out.jsonl", CleanOptions())
    binary = np.random.default_rng(3).bytes(20_000)
    (tmp_path / "b").mkdir()
    kept, rejected = cleaned(tmp_path / "b", binary)
    assert kept == []
    assert {row["reason"] for row in rejected} <= {"encoding", "broken-json"}


def test_texts_of_a_folder(tmp_path: Path) -> None:
    """Files come in the order of their paths, a text is a file or a part of one, lines are counted past separators."""
    folder = tmp_path / "books" / "deep"
    folder.mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"one of b\r\n\r\n\r\n\r\ntwo of b\n")
    (tmp_path / "books" / "a.md").write_text("all of a\n")
    (tmp_path / "books" / ".hidden.txt").write_text("not this\n")
    given = [str(tmp_path / "books"), str(tmp_path / "books" / "deep" / ".." / "a.md")]
    tally = clean(given, tmp_path / "o.jsonl", CleanOptions(separator="\n\n", near=0.0))
    assert [row["text"] for row in rows(tmp_path / "o.jsonl")] == ["all of a", "one of b", "two of b"]
    assert [(row["line"], row["reason"]) for row in rows(tmp_path / "rejects.jsonl")] == [
        (3, "empty")
    ]  # and no duplicate
    assert tally.lengths.total == 24


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_values_come_one_at_a_time(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array, values behind each other and one value alone are read as `json` reads them, however they are cut."""
    monkeypatch.setattr(values, "CHUNK", chunk)
    found = [{"text": f"“é” {n} \\ {'x' * n}", "n": [n, {"a": None}]} for n in range(12)]
    for content in (
        json.dumps(found, ensure_ascii=False),
        json.dumps(found, indent=2),
        "\n".join(map(json.dumps, found)),
    ):
        kept, rejected = cleaned(tmp_path, content, "in.json", near=0.0, whitespace=False)
        assert kept == found
        assert rejected == []
    assert cleaned(tmp_path, json.dumps(found[3], indent=1), "in.json", whitespace=False)[0] == found[3:4]
    content = (
        '[\n{"text": "first one"},\n{"text": "bad", "n": NaN},\n{"text": "third one"},\n{"text": oops}, {"text": "?"}]'
    )
    kept, rejected = cleaned(tmp_path, content, "in.json", near=0.0)
    assert [row["text"] for row in kept] == ["first one", "third one"]
    assert [(row["line"], row["reason"]) for row in rejected] == [(3, "broken-json"), (5, "broken-json")]
    _, rejected = cleaned(tmp_path, '[1234567890, {"text": "first one"}]', "in.json")
    assert [(row["reason"], row["start"]) for row in rejected] == [("no-object", "1234567890")]
    _, rejected = cleaned(tmp_path, '[{"text": "first one"}', "in.json")
    assert "does not end" in rejected[0]["detail"]
    kept, rejected = cleaned(tmp_path, b'[{"text": "first one"}, {"text": "\xff"}]', "in.json")
    assert (len(kept), rejected[0]["reason"]) == (1, "encoding")


@pytest.mark.parametrize("separator", [b"\n", b"--", b"\n\n"])
def test_parts_are_those_of_split(separator: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the chunks, the parts are those of `bytes.split`, with the lines and bytes before each."""
    draw = random.Random(0)
    for _ in range(300):
        content = bytes(draw.choice(b"ab-\n") for _ in range(draw.randrange(40)))
        monkeypatch.setattr(read, "CHUNK", draw.randrange(1, 9))
        found = list(read.parts(_Bytes(content), separator))
        wanted = content.split(separator)
        assert [part.data for part in found] == (wanted if wanted[-1] else wanted[:-1])
        at = 0
        for part in found:
            assert part.line == content[:at].count(b"\n") + 1
            at += len(part.data or b"") + (len(separator) if part is not found[-1] or not wanted[-1] else 0)
            assert (part.end, part.lines) == (at, content[:at].count(b"\n"))


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, size: int) -> bytes:
        piece, self.content = self.content[:size], self.content[size:]
        return piece


def test_a_line_too_long_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is rejected with its start, and its neighbours are kept; it is never held whole."""
    monkeypatch.setattr(read, "MOST_BYTES", 1_000)
    monkeypatch.setattr(read, "CHUNK", 100)
    long = json.dumps({"text": "long " * 10_000})
    content = "\n".join(['{"text": "before"}', long, '{"text": "after"}'])
    kept, rejected = cleaned(tmp_path, content)
    assert [row["text"] for row in kept] == ["before", "after"]
    assert [(row["line"], row["reason"]) for row in rejected] == [(2, "too-long")]
    assert rejected[0]["start"] == long[: raw.START]


# --- duplicates -----------------------------------------------------------------------------------------------------


def mutated(words: list[str], changes: int, draw: random.Random) -> list[str]:
    """Return words of which some were exchanged."""
    words = list(words)
    for place in draw.sample(range(len(words)), changes):
        words[place] = f"é{draw.random()}".replace(".", "")
    return words


@pytest.mark.parametrize("script", ["latin", "chinese"])
def test_near_duplicates_are_those_of_brute_force(tmp_path: Path, script: str) -> None:
    """Every reject has the share it says with the record it says, and brute force finds few pairs more."""
    draw = random.Random(5)
    vocabulary = [chr(0x4E00 + n) for n in range(3_000)] if script == "chinese" else [f"word{n}" for n in range(3_000)]
    texts = []
    for _ in range(150):
        words = draw.choices(vocabulary, k=draw.randrange(20, 200))
        versions = [mutated(words, changes, draw) for changes in (0, 1, 2, len(words) // 12, len(words) // 4)]
        texts += [("" if script == "chinese" else " ").join(version) for version in versions]
    draw.shuffle(texts)
    kept, rejected = cleaned(tmp_path, "\n".join(json.dumps({"text": text}) for text in texts), near=0.75)
    sets = [shingles_of(units_of(text), 3) for text in texts]
    near = [row for row in rejected if row["reason"] == "near-duplicate"]
    assert len(near) > 150
    for row in near:
        share, _, record = row["detail"].partition(" as record ")
        exact = jaccard(sets[row["line"] - 1], shingles_of(units_of(kept[int(record) - 1]["text"]), 3))
        assert exact >= 0.75
        assert f"{exact:.3f}" == share
    final = [shingles_of(units_of(row["text"]), 3) for row in kept]
    missed = sum(jaccard(a, b) >= 0.75 for a, b in itertools.combinations(final, 2))
    assert missed <= 0.05 * len(near)
    exact_only, _ = cleaned(tmp_path, "\n".join(json.dumps({"text": text}) for text in texts), near=0.0)
    assert len(exact_only) == len(set(texts))


ASK, SAY = (
    "What is the weather like in the city of Oslo today?",
    "It is cold, and it will rain from noon until the night.",
)


def chat(first: str, second: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": first, "content": ASK}, {"role": second, "content": SAY, **more}]}


def calling(name: str, **given: Any) -> dict[str, Any]:
    return chat("user", "assistant", tool_calls=[{**given, "function": {"name": name, "arguments": {"id": 1}}}])


def sharegpt(first: str, second: str) -> dict[str, Any]:
    return {"id": 7, "conversations": [{"from": first, "value": ASK}, {"from": second, "value": SAY}]}


@pytest.mark.parametrize("near", [0.0, 0.8])
@pytest.mark.parametrize(
    ("one", "other", "double"),
    [
        (calling("look"), calling("go"), False),
        (calling("look"), calling("look", type="function"), False),
        (calling("look", id="call_1"), calling("look", id="call_2"), True),
        (chat("user", "assistant"), chat("system", "assistant"), False),
        (chat("user", "assistant"), {**chat("user", "assistant"), "tools": [{"name": "look"}]}, False),
        (chat("user", "assistant"), {**chat("user", "assistant", tool_calls=[]), "source": "web"}, True),
        (chat("user", "assistant"), sharegpt("human", "gpt"), True),
        (chat("user", "assistant"), sharegpt("gpt", "human"), False),
        ({"prompt": "?", "chosen": ASK, "rejected": SAY}, {"prompt": "?", "chosen": SAY, "rejected": ASK}, False),
        ({"query": ASK, "response": SAY}, {"query": SAY, "response": ASK}, False),
        ({"query": ASK, "response": SAY}, {"instruction": ASK, "input": "", "output": SAY + "\n"}, True),
        ({"text": ASK}, {"content": f" {ASK}"}, True),
    ],
)
def test_what_is_double_says_the_same(tmp_path: Path, one: Any, other: Any, double: bool, near: float) -> None:
    """Equal words of other roles, calls, tools or sides are another record; other names of a field or a call are not.

    A near duplicate must be near in each part, so that a short answer counts beside a long question.
    """
    kept, rejected = cleaned(tmp_path, "\n".join(map(json.dumps, (one, other))), near=near)
    assert [row["reason"] for row in rejected] == ["duplicate"] * double
    assert len(kept) == 2 - double
    nearer = json.loads(json.dumps(one).replace("cold,", "cold and dark,").replace("today?", "this very day?"))
    kept, rejected = cleaned(tmp_path, "\n".join(map(json.dumps, (one, nearer))), near=0.6 * bool(near))
    assert len(kept) == 2 - bool(near)
    other_answer = {"query": f"{ASK} {SAY} " * 9, "response": "yes"}
    kept, _ = cleaned(
        tmp_path, "\n".join(map(json.dumps, (other_answer, {**other_answer, "response": "no"}))), near=near
    )
    assert len(kept) == 2


def test_minhash_estimates_the_share() -> None:
    """The chance that a key is common is the share of common shingles to the power of a key's hashes."""
    for common, size in ((90, 110), (60, 140)):
        threshold = 0.5
        minhash = MinHash(threshold, 1)
        hits = 0
        for trial in range(150):
            one = [f"{trial} {n}" for n in range(100)]
            other = one[:common] + [f"other {trial} {n}" for n in range(100 - common)]
            hits += int((minhash.keys(one) == minhash.keys(other)).sum())
        wanted = (common / size) ** minhash.rows
        # 150 times 16 keys, which of one pair are nearly independent
        assert hits / (150 * 16) == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / 2_400) ** 0.5)


def test_the_table_of_keys() -> None:
    """It holds what a dict holds, grown one by one or filled at once, also where all keys want one slot."""
    draw = np.random.default_rng(2)
    keys = np.concatenate(
        [draw.integers(1, 2**64, 20_000, dtype=np.uint64), np.arange(1, 4_000, dtype=np.uint64) * 4_096]
    )
    keys = np.concatenate([keys, keys[::3]])
    records = np.arange(len(keys), dtype=np.uint32)
    one, other, wanted = KeyTable(), KeyTable(), {}
    for key, record in zip(keys.tolist(), records.tolist(), strict=True):
        one.put(key, record)
        wanted.setdefault(key, record)
    other.fill(keys, records)
    assert one.count == other.count == len(wanted)
    for table in (one, other):
        assert [table.get(key) for key in wanted] == list(wanted.values())
        assert [table.get(key) for key in range(5, 4_000, 7)] == [None] * len(range(5, 4_000, 7))
        assert 0.5 < table.count / table.size <= 0.8


# --- going on -------------------------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
from pathlib import Path
import llmx.data.clean.run as run
run.COMMIT_S = 0.004
def slowly(count):
    time.sleep(0.00005)
options = run.CleanOptions(separator="\\n\\n", near=0.7)
print(json.dumps(run.clean(sys.argv[2:], Path(sys.argv[1]), options, report=slowly).to_json()))
"""


def test_a_kill_changes_no_byte(tmp_path: Path) -> None:
    """Killed again and again at random moments and started again, it ends with the files of an undisturbed clean."""
    draw = random.Random(9)
    words = [f"w{n}" for n in range(500)]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(1_500)]
    texts += [text + " more" for text in texts[:500]] + texts[:200]
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text}) if n % 9 else "{broken" for n, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines[:900]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[900:1_500]).encode()))
    (folder / "c.txt").write_text("\n\n".join(texts[1_500:1_900]))
    (folder / "d.json").write_text(json.dumps([{"text": text} for text in texts[1_900:]], indent=1))
    tally = clean([str(folder)], tmp_path / "whole" / "out.jsonl", CleanOptions(separator="\n\n", near=0.7))
    out = tmp_path / "killed" / "out.jsonl"
    kills = 0
    state = out.with_name("out.jsonl.cleaning") / "state.json"
    while state.exists() or not out.exists():
        assert kills < 60
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out), str(folder)], stdout=subprocess.PIPE)
        before = time.time_ns()
        while child.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.2 * (1 + kills / 10))  # on a machine that is busy each life does less
        child.send_signal(signal.SIGKILL)
        last, _ = child.communicate()
        assert child.returncode in (0, -signal.SIGKILL)
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 5
    assert json.loads(last or "{}") in ({}, tally.to_json())  # nothing where the kill came after the last step
    for name in ("out.jsonl", "rejects.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "killed")) == ["out.jsonl", "rejects.jsonl"]  # noqa: PTH208
    assert len(rows(out)) > 1_000


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_last_steps(tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is written, a stop before, between or after the two renames is mended by the same command."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "some text"}\nnone\n')
    count, rename, unlink = [0], Path.rename, Path.unlink

    def stop(path: Path, target: Path) -> Path:
        if count[0] == renames:
            raise KeyboardInterrupt
        count[0] += 1
        return rename(path, target)

    def stop_too(path: Path, missing_ok: bool = False) -> None:
        if path.name == "keys.bin":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "rename", stop)
    monkeypatch.setattr(Path, "unlink", stop_too)
    with pytest.raises(KeyboardInterrupt):
        clean([str(source)], out, CleanOptions())
    assert out.exists() == (renames == 2)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "unlink", unlink)
    tally = clean([str(source)], out, CleanOptions())
    assert (tally.kept, tally.records) == (1, 2)
    assert (rows(out), len(rows(tmp_path / "rejects.jsonl"))) == ([{"text": "some text"}], 1)
    assert len(list(tmp_path.iterdir())) == 3


def half_done(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop a clean after a commit, and return the folder of its work."""

    def stop(records: int) -> None:
        if records > 2:
            raise KeyboardInterrupt

    source.write_text("".join(json.dumps({"text": f"{n} a text {n}"}) + "\n" for n in range(5)))
    with monkeypatch.context() as patch:
        patch.setattr(run, "COMMIT_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            clean([str(source)], out, CleanOptions(), report=stop)
    return out.with_name("out.jsonl.cleaning")


@pytest.mark.parametrize(
    "state", ["", "{", "[]", "{}", "null", b"\xff", "no tally", "no size", "kept.jsonl", "keys.bin"]
)
def test_a_damaged_clean_is_told(tmp_path: Path, state: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash of the machine may leave is one line that says what to delete, and then it starts again."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    work = half_done(source, out, monkeypatch)
    found = json.loads((work / "state.json").read_text())
    if state in ("kept.jsonl", "keys.bin"):
        os.truncate(work / str(state), 3)
    elif state in ("no tally", "no size"):
        broken = {**found, "tally": {}} if state == "no tally" else {**found, "sizes": [1]}
        (work / "state.json").write_text(json.dumps(broken))
    else:
        (work / "state.json").write_bytes(state if isinstance(state, bytes) else state.encode())
    with pytest.raises(RecipeError, match=r"out\.jsonl\.cleaning: the unfinished clean .* is damaged: delete it"):
        clean([str(source)], out, CleanOptions())
    shutil.rmtree(work)
    assert clean([str(source)], out, CleanOptions()).kept == 5


def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """It is one line with the place and what to do, and the same command goes on when there is room."""
    resource = pytest.importorskip("resource")
    source = tmp_path / "in.jsonl"
    draw = random.Random(3)
    source.write_text("".join(json.dumps({"text": str(draw.random()) * 20}) + "\n" for _ in range(500)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the error is EFBIG, which counts as a full disk
    try:
        with pytest.raises(LlmxError, match=r"out\.jsonl\.cleaning: File too large: free space .* same command again"):
            clean([str(source)], tmp_path / "out.jsonl", CleanOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert clean([str(source)], tmp_path / "out.jsonl", CleanOptions()).kept == 500
    assert (tmp_path / "out.jsonl").read_bytes() == source.read_bytes()


def test_what_is_not_its_own_stays(tmp_path: Path) -> None:
    """A file or a folder that stands where it would write, an input, other options: it says so and touches nothing."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "some text"}\n')
    for path, name in ((out, "OUT"), (tmp_path / "rejects.jsonl", "--rejects")):
        path.write_text("mine")
        with pytest.raises(RecipeError, match=rf"{path.name}: exists: give {name} another name, or move it away"):
            clean([str(source)], out, CleanOptions())
        assert path.read_text() == "mine"
        assert {each.name for each in tmp_path.iterdir()} == {"in.jsonl", path.name}
        path.unlink()
    with pytest.raises(RecipeError, match="is one of the files to clean"):
        clean([str(source)], source, CleanOptions())
    work = tmp_path / "out.jsonl.cleaning"
    for left in work.iterdir() if work.exists() else ():
        left.unlink()
    work.mkdir(exist_ok=True)
    (work / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is no unfinished clean"):
        clean([str(source)], out, CleanOptions())
    assert (work / "thesis.txt").read_text() == "mine"
    (work / "thesis.txt").unlink()

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    before, run.COMMIT_S = run.COMMIT_S, 0.0
    try:
        source.write_text('{"text": "some text"}\n{"text": "another text"}\n')
        count = iter([None, stop])
        with pytest.raises(KeyboardInterrupt):
            clean([str(source)], out, CleanOptions(), report=lambda n: (next(count) or (lambda _: None))(n))
    finally:
        run.COMMIT_S = before
    with pytest.raises(RecipeError, match="unfinished clean with other options"):
        clean([str(source)], out, CleanOptions(near=0.5))
    from filelock import FileLock

    with FileLock(work / "lock"), pytest.raises(LlmxError, match="another process is at this clean"):
        clean([str(source)], out, CleanOptions())
    with pytest.raises(RecipeError, match=r"out\.jsonl: exists by now"):
        clean([str(source)], out, CleanOptions(), report=lambda _: out.write_text("mine"))
    assert out.read_text() == "mine"
    out.unlink()
    assert clean([str(source)], out, CleanOptions()).kept == 2


def test_a_second_file_is_cleaned_into_the_same_folder(tmp_path: Path, llmx_cli: Any) -> None:
    """Where nothing is rejected no file of rejects is written or named, so that it blocks no other clean."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"some text of {name}"}) + "\n")
        done = llmx_cli("data", "clean", tmp_path / f"{name}.jsonl", tmp_path / "c" / f"{name}.jsonl")
        assert done.returncode == 0, done.stderr
        assert "rejects" not in done.stdout
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"a.jsonl", "b.jsonl"}


USER, EMPTY = {"role": "user", "content": ASK}, {"role": "assistant", "content": " "}
ANSWER = {"role": "assistant", "content": SAY}


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"messages": [USER, {"role": "wizard", "content": SAY}]}, "role", "messages[1] has the role 'wizard'"),
        ({"messages": [{"content": ASK}]}, "role", "messages[0] has the role None"),
        ({"messages": "not a list"}, "no-turns", "messages is no list of messages"),
        ({"messages": [ASK]}, "no-turns", "messages is no list of messages"),
        ({"messages": [USER]}, "no-answer", "messages has no turn of the assistant that says anything"),
        (
            {"conversations": [USER, EMPTY]},
            "no-answer",
            "conversations has no turn of the assistant that says anything",
        ),
        ({"instruction": ASK, "output": ""}, "no-answer", "output is empty"),
        ({"query": ASK, "response": None}, "no-answer", "response is empty"),
        ({"prompt": ASK, "chosen": SAY, "rejected": []}, "no-answer", "rejected is empty"),
        ({"prompt": [USER], "chosen": [{"role": "x"}], "rejected": SAY}, "role", "chosen[0] has the role 'x'"),
        ({"messages": json.dumps([USER, ANSWER])}, None, ""),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]}, None, ""),
        ({"conversations": [{"from": "human", "value": ASK}, {"from": "function_call", "value": "{}"}]}, None, ""),
        ({"messages": [USER], "chosen": SAY, "rejected": ASK}, None, ""),
        ({"text": ASK, "output": ""}, None, ""),
        ({"messages": None, "text": ASK}, None, ""),
    ],
)
def test_what_no_run_could_learn_is_rejected(tmp_path: Path, record: Any, reason: str | None, detail: str) -> None:
    """A chat that no dataset reads, or without an answer, goes with its reason; calls and plain text are enough."""
    kept, rejected = cleaned(tmp_path, json.dumps(record))
    assert [(row["reason"], row["detail"]) for row in rejected] == ([(reason, detail)] if reason else [])
    assert kept == ([] if reason else [record])


def test_the_fault_of_a_json_text_reads_well() -> None:
    """The words of Python's parser that end in "at" are not followed by another."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads('{"text": "cut')
    assert raw.json_fault(caught.value) == "Unterminated string starting at character 10"


def test_the_command(tmp_path: Path, llmx_cli: Any) -> None:
    """A dry run writes nothing; counts come as text with a histogram, and as JSON; a wrong option is one line."""
    source = tmp_path / "in.txt"
    source.write_text("A first paragraph.\n\nA second one, longer.\n\nA first paragraph.\n\nx\n")
    done = llmx_cli("data", "clean", source, tmp_path / "out.jsonl", "--separator", r"\n\n", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["in.txt"]  # noqa: PTH208
    assert "4 records read, 2 kept (50.0%), 0 of them changed" in done.stdout
    assert " 1  duplicate " in done.stdout
    assert "16–31  ████" in done.stdout
    done = llmx_cli("data", "clean", source, tmp_path / "out.jsonl", "--separator", r"\n\n", "--json")
    found = json.loads(done.stdout)
    assert found["rejected"] == {"too-short": 1, "duplicate": 1}
    assert found["characters"]["longest"] == 21
    assert len(rows(tmp_path / "out.jsonl")) == 2
    for arguments, message in (
        (["--near", "1.5"], "'near' must be <= 1"),
        (["--min-chars", "9", "--max-chars", "3"], "--min-chars 9: is more than --max-chars 3"),
    ):
        done = llmx_cli("data", "clean", source, tmp_path / "new.jsonl", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


# --- lengths --------------------------------------------------------------------------------------------------------


def test_lengths_are_counted_closely() -> None:
    """Quantiles are those of numpy to a tenth of a per cent, sums are exact, bins cover all lengths once."""
    draw = np.random.default_rng(0)
    data = np.concatenate([draw.lognormal(7, 2, 5_000).astype(int), [0, 1, 2, 3, 2**40]])
    lengths = Lengths.of(data.tolist())
    assert (lengths.number, lengths.total, lengths.longest) == (len(data), data.sum(), 2**40)
    for share in (0.01, 0.5, 0.9, 0.99):
        wanted = np.quantile(data, share, method="inverted_cdf")
        assert lengths.quantile(share) == pytest.approx(wanted, rel=1e-3)
    for parts in (1, 2, 4):
        found = list(lengths.octaves(parts))
        assert [high + 1 for _, high, _ in found[:-1]] == [low for low, _, _ in found[1:]]
        kept = data[data < 2_048]
        for low, high, times in found:
            if high < 2_048:
                assert times == ((kept >= low) & (kept <= high)).sum()
        assert sum(times for *_, times in found) == len(data)
    again = Lengths.from_json(json.loads(json.dumps(lengths.to_json())))
    assert again == lengths
    assert bars(Lengths.of([]), "characters") == ["characters"]
