"""Thoughts and calls are taken out of an answer, wherever the pieces of its text are cut."""

from __future__ import annotations

import json
import random

import pytest

from llmx.speech import Said, Speech

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "北京", "n": [1]}}\n</tool_call>'
CASES = [
    ("Plain.", False, [("content", "Plain.")]),
    ("  Plain. \n", False, [("content", "  Plain. \n")]),
    ("", False, []),
    ("<think>\nSo.\n</think>\n\nYes.", False, [("reasoning", "So."), ("content", "Yes.")]),
    ("So.\n</think>\n\nYes.", True, [("reasoning", "So."), ("content", "Yes.")]),
    ("<think>\n\n</think>\n\nYes.", False, [("content", "Yes.")]),
    ("<think>\nno end", False, [("reasoning", "no end")]),
    ("<think>\nSo <b>.</think>Yes < no.\n", False, [("reasoning", "So <b>."), ("content", "Yes < no.\n")]),
    (" <thing> is", False, [("content", " <thing> is")]),
    ("<thin", False, [("content", "<thin")]),
    ("a <think> b", False, [("content", "a <think> b")]),
    (f"Look:\n{CALL}", False, [("content", "Look:"), ("call", '{"at":"北京","n":[1]}')]),
    (f"{CALL}\n{CALL}", False, [("call", '{"at":"北京","n":[1]}')] * 2),
    (f"<think>\nSo.\n</think>\n\n{CALL}", False, [("reasoning", "So."), ("call", '{"at":"北京","n":[1]}')]),
    (f"{CALL}\n\n{CALL}\n \n", False, [("call", '{"at":"北京","n":[1]}')] * 2),
    (f"{CALL}\nSo.\n", False, [("call", '{"at":"北京","n":[1]}'), ("content", "\nSo.\n")]),
    (CALL.removesuffix("</tool_call>"), False, [("call", '{"at":"北京","n":[1]}')]),
    ("<tool_call>{nonsense}</tool_call>", False, [("content", "<tool_call>{nonsense}</tool_call>")]),
    ("<tool_call>\n[1]", False, [("content", "<tool_call>\n[1]")]),
    ("a < b \n <tool", False, [("content", "a < b \n <tool")]),
]


def joined(said: list[Said]) -> list[tuple[str, str]]:
    """Join neighbours of one kind; calls stay apart."""
    found: list[tuple[str, str]] = []
    for each in said:
        if found and found[-1][0] == each.kind != "call":
            found[-1] = each.kind, found[-1][1] + each.text
        else:
            found.append((each.kind, each.text))
    return found


@pytest.mark.parametrize(("text", "thinking", "expected"), CASES)
def test_cuts_change_nothing(text: str, thinking: bool, expected: list[tuple[str, str]]) -> None:
    """Whole, by characters, and in random pieces."""
    for seed in range(30):
        chance = random.Random(seed)
        most = (len(text) or 1, 1)[seed] if seed < 2 else 7
        speech, said, at = Speech(thinking=thinking, tools=True), [], 0
        while at < len(text):
            size = most if seed < 2 else chance.randint(1, most)
            said += speech.feed(text[at : at + size])
            at += size
        assert joined(said + speech.finish()) == expected


def test_nothing_is_held_back_that_is_sure() -> None:
    """Text comes at once; only what may be a tag or the space before one waits."""
    speech = Speech(tools=True)
    assert joined(speech.feed("Hello, wor")) == [("content", "Hello, wor")]
    assert joined(speech.feed("ld <")) == [("content", "ld")]
    assert joined(speech.feed("b")) == [("content", " <b")]


def test_without_tools_calls_are_text() -> None:
    """Who offered none is not told of any."""
    speech = Speech()
    assert joined(speech.feed(CALL) + speech.finish()) == [("content", CALL)]


@pytest.mark.parametrize("arguments", ['"oops"', '"[1]"', '""', "[1]", "null", "1", "true"])
def test_arguments_that_are_no_object_are_no_call(arguments: str) -> None:
    """What a server would refuse when it is sent back stays text."""
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    speech = Speech(tools=True)
    assert joined(speech.feed(text) + speech.finish()) == [("content", text)]
    assert speech.calls == 0


def test_arguments_are_json() -> None:
    """As OpenAI's clients read them; a model that writes them as a string is taken at its word."""
    speech = Speech(tools=True)
    call = speech.feed('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>')[0]
    assert (call.name, json.loads(call.text)) == ("f", {"a": 1})
