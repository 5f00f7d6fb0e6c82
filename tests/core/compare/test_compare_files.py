"""What is read: the file of models, the questions, their rules; every fault with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmx.compare import read_comparison, read_questions
from llmx.compare.config import structured
from llmx.compare.questions import question_of
from llmx.compare.rules import Expect, broken_rules, rule_score
from llmx.errors import DataError, RecipeError
from llmx.generate.messages import messages_of


def test_all_faults_of_the_models_are_told_at_once(tmp_path: Path) -> None:
    """A line for each with its path; a key in the file is refused and not repeated."""
    (tmp_path / "m.toml").write_text(
        """
        other = 1
        [[model]]
        path = "a"
        url = "http://x/v1"
        [[model]]
        path = 3
        weigths = "int8"
        overrides = 3
        [[model]]
        path = "b"
        overrides = {"generate.max_new_tokens" = 3}
        [[model]]
        url = "ftp://x"
        [[model]]
        url = "https://me:secret@x/v1"
        api_key = "sk-verysecret"
        [generate]
        temperature = 3
        max_new_tokens = 1.5
        [judge]
        model = "j"
        prompt = 1
        """
    )
    with pytest.raises(RecipeError) as told:
        read_comparison(tmp_path / "m.toml")
    text = str(told.value)
    for wanted in (
        "m.toml: other: no such section; there are: model, generate, judge",
        "m.toml: model[1]: needs either path (a folder) or url (an OpenAI API), and not both",
        "m.toml: model[2].weigths: no such option; nearest: weights",
        "m.toml: model[2].path: must be path, not 3 (int)",
        "m.toml: model[2].overrides: must be table, not 3 (int)",
        "model[3]: overrides: generate.max_new_tokens: only sampler.* can be given",
        'model[4].url: must be the base URL of an OpenAI API, such as "http://127.0.0.1:8000/v1"',
        "model[5].url: holds a name or password",
        "model[5].api_key: a key does not belong into a file: name a variable in api_key_env",
        "generate.temperature: ",
        "generate.max_new_tokens: must be int, not 1.5 (float)",
        "judge.url: is required (str)",
        "judge.prompt: must be str, not 1 (int)",
    ):
        assert wanted in text
    assert "secret" not in text.replace("me:secret", "")
    assert len(text.splitlines()) == len(told.value.faults) == 13


def test_names_are_given_or_found() -> None:
    """A folder is called by its last part (of a run, not its model/), a URL by its model; two alike are refused."""
    models = [
        {"path": "runs/a/model"},
        {"path": "runs/b"},
        {"url": "http://h:1/v1"},
        {"url": "http://h/v1", "model": "m"},
    ]
    found = structured({"model": models}, "f")
    assert [each.name for each in found.models] == ["a", "b", "h:1", "m"]
    with pytest.raises(RecipeError, match="f: two models are called 'a': give each a name"):
        structured({"model": [{"path": "x/a"}, {"path": "y/a"}]}, "f")
    with pytest.raises(RecipeError, match=r"weights, sampler: mean nothing beside url"):
        structured({"model": [{"url": "http://h/v1", "weights": "int8", "sampler": ["greedy"]}]}, "f")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no questions"),
        ("[[model]\n", "is no TOML"),
        ("model = 3", "model: no models: write a [[model]] table"),
    ],
)
def test_files_that_say_nothing(tmp_path: Path, text: str, fault: str) -> None:
    """One line, for a missing file too."""
    (tmp_path / "f").write_text(text)
    with pytest.raises(RecipeError, match=fault.replace("[", r"\[").replace("]", r"\]")):
        read_questions(tmp_path / "f") if "questions" in fault else read_comparison(tmp_path / "f")
    for read in (read_questions, read_comparison):
        with pytest.raises(RecipeError, match="none: cannot be read: No such file"):
            read(tmp_path / "none")


def test_each_bad_question_is_told_with_its_line(tmp_path: Path) -> None:
    """file:line and what is wrong; good lines, blank ones, a BOM and CRLF are no faults."""
    lines = [
        '\ufeff{"question": "ok"}\r',
        "",
        "{no json",
        "[1]",
        '{"question": "a", "prompt": "b"}',
        '{"tags": ["x"]}',
        '{"question": 1}',
        '{"question": "a", "expcet": {}}',
        '{"question": "a", "expect": {"regex": "("}}',
        '{"question": "a", "expect": {"contain": "x"}}',
        '{"question": "a", "expect": {}}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"question": "\\ud800"}',
        '{"question": "a", "expect": {"json_schema": {"type": 3}}}',
        '{"messages": [3]}',
        '{"question": "a", "expect": [1]}',
        '{"question": "a", "expect": {"json_schema": 3}}',
        '{"question": "a", "id": "same"}',
        '{"question": "b", "id": "same"}',
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as told:
        read_questions(path)
    found = [line.removeprefix(str(path)) for line in told.value.faults]
    wanted = [
        ":3: is no JSON",
        ':4: must be a JSON object, such as {"question"',
        ":5: needs one of question, prompt and messages, not question and prompt",
        ":6: needs one of question, prompt and messages, not none",
        ":7: question: must be str, not 1 (int)",
        ":8: expcet: no such option; nearest: expect",
        ":9: expect: regex: '(' is no regular expression",
        ":10: expect.contain: no such option; nearest: contains",
        ":11: expect: says nothing that could be checked",
        ":12: messages[0].content: must be text, not None",
        ":13: messages: end with the assistant's: there is nothing left to answer",
        ":14: holds half of a surrogate pair",
        ":15: expect: json_schema: $.type: 3 is not valid",
        ":16: messages: must be list of table, not [3] (list)",
        ":17: expect: must be table, not [1] (list)",
        ":18: expect.json_schema: must be table, not 3 (int)",
        ": two questions have the id 'same'",
    ]
    assert len(found) == len(wanted)
    for line, beginning in zip(found, wanted, strict=True):
        assert line.startswith(beginning), (line, beginning)
    (tmp_path / "b").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(DataError, match="is not UTF-8 at byte 14"):
        read_questions(tmp_path / "b")


def test_a_question_is_a_chat() -> None:
    """A system message comes first unless the question brings its own; an id is its line or its own."""
    line = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], "id": "x"}
    chat, _ = question_of(json.dumps(line), "7")
    plain, _ = question_of('{"prompt": "P"}', "7")
    assert chat is not None
    assert plain is not None
    assert chat.chat("other") == line["messages"]
    assert plain.chat("T") == [{"role": "system", "content": "T"}, {"role": "user", "content": "P"}]
    assert plain.chat("") == [{"role": "user", "content": "P"}]
    assert (chat.id, plain.id) == ("x", "7")
    again, _ = question_of(json.dumps(plain.written), "7")
    assert again == plain


def test_a_chat_is_read_as_generate_reads_it() -> None:
    """Roles by their other names, calls and parts of text; what else a message holds stays for a URL."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "human", "content": [{"type": "text", "text": "U"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c"},
    ]
    question, faults = question_of(json.dumps({"messages": messages}), "1")
    assert question is not None, faults
    assert question.chat("other") == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c"},
    ]
    assert messages_of(question.chat(""))[2].tool_calls == ({"name": "f", "arguments": {}},)


@pytest.mark.parametrize(
    ("answer", "rules", "broken"),
    [
        ("Paris is it", {"contains": ["Paris", "France"]}, ["contains 'France'"]),
        ("paris", {"contains": "Paris", "ignore_case": True}, []),
        ("paris", {"contains": "Paris"}, ["contains 'Paris'"]),
        ("no idea", {"excludes": ["idea", "Rome"]}, ["excludes 'idea'"]),
        ("  42\n", {"equals": ["42", "forty-two"]}, []),
        ("42.", {"equals": "42"}, ["equals '42'"]),
        ("a\nb 12", {"regex": [r"^b \d+$", r"\d{2}"]}, [r"regex '^b \\d+$'"]),
        ('```json\n{"a": 1}\n```', {"json": True, "json_schema": {"required": ["a"]}}, []),
        ('{"a": 1', {"json": True, "json_schema": {"required": ["a"]}}, ["json", "json_schema (no JSON)"]),
        ('{"a": "x"}', {"json_schema": {"properties": {"a": {"type": "integer"}}}},
         ["json_schema ($.a: 'x' is not of type 'integer')"]),
        ("12345", {"max_chars": 4, "min_chars": 6}, ["max_chars 4 (it has 5)", "min_chars 6 (it has 5)"]),
        ("<think>France, 99 words</think>\n\nParis", {"equals": "Paris", "excludes": "France", "max_chars": 5}, []),
        ("<think>never ends Paris", {"contains": "Paris"}, ["contains 'Paris'"]),
        ("[" * 100_000, {"json": True}, ["json"]),
    ],
)  # fmt: skip
def test_rules(answer: str, rules: dict[str, Any], broken: list[str]) -> None:
    """What an answer breaks, in words; the score is the share of rules met."""
    expect = Expect(**rules)
    assert broken_rules(answer, expect) == broken
    assert rule_score(len(broken), expect) == pytest.approx(1 - len(broken) / expect.count)
    assert expect.count == sum(
        len(value) if isinstance(value, list) and name != "equals" else name != "ignore_case"
        for name, value in rules.items()
    )


def test_a_schema_fetches_nothing() -> None:
    """A schema that refers to an address is told as a fault of the answer's check, and no connection is made."""
    import socket
    from unittest import mock

    with mock.patch.object(socket, "socket", side_effect=AssertionError("a connection")):
        question, faults = question_of(
            '{"question": "q", "expect": {"json_schema": {"$ref": "http://127.0.0.1:9/schema"}}}', "1"
        )
    assert question is None
    assert faults == ["expect: json_schema: refers to 'http://127.0.0.1:9/schema', which is not in it"]
