"""The texts of a record, wherever its form keeps them, the record with other texts, and what it says with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

KNOWN = (
    *("text", "content", "instruction", "input", "output", "query", "response", "prompt", "completion"),
    *("question", "answer", "system", "history", "messages", "conversations", "conversation"),
    *("chosen", "rejected", "rejected_response"),
)
"""Fields of the usual forms: plain text, instructions, questions, chats, preference pairs."""

INNER = ("content", "value", "text", "reasoning_content", "reasoning")
"""Fields of a turn, or of a part of one; its role and its calls are no text."""

BESIDE = ("tools", "functions")
"""Fields that are no text and yet change what a record teaches."""

NAMES = ("id", "tool_call_id")
"""Keys of a turn, or of a call, whose values are made anew each time."""

SAME = {
    **dict.fromkeys(("content", "value"), "text"),
    "from": "role",
    "human": "user",
    "gpt": "assistant",
    **dict.fromkeys(("conversations", "conversation"), "messages"),
    **dict.fromkeys(("instruction", "query", "question"), "prompt"),
    **dict.fromkeys(("output", "response", "completion"), "answer"),
}
"""Fields and roles that forms call by different names."""

Change = Callable[[str], str]
See = Callable[[str, str], str]


def texts_of(record: dict[str, Any], fields: Sequence[str]) -> list[str] | None:
    """Return the texts of a record in the order it has them; None where it has none of the fields."""
    found: list[str] = []

    def see(text: str) -> str:
        found.append(text)
        return text

    named = [key for key in record if key in (fields or KNOWN)]
    for key in named:
        _walk(record[key], see)
    return found if named else None


def with_texts(record: dict[str, Any], fields: Sequence[str], change: Change) -> dict[str, Any]:
    """Return a record whose texts are changed and whose other values are as they were."""
    return {key: _walk(value, change) if key in (fields or KNOWN) else value for key, value in record.items()}


def _walk(value: Any, change: Change) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_walk(each, change) for each in value]
    if isinstance(value, dict):
        return {key: _walk(each, change) if key in INNER else each for key, each in value.items()}
    return value


def sense_of(record: dict[str, Any], fields: Sequence[str], see: See) -> list[Any]:
    """Return what tells a record from others: its texts, what each of them is, the roles, the calls and the tools.

    Args:
        see: gives what stands there for a text. It is called with the text's part, as "messages user text", and it.
    """
    found = [[_same(key), _sense(record[key], _same(key), see)] for key in sorted(record) if key in (fields or KNOWN)]
    return _said([*found, *([key, record[key]] for key in BESIDE if key in record)])


def _sense(value: Any, part: str, see: See) -> Any:
    if isinstance(value, str):
        return see(part, value)
    if isinstance(value, list):
        return [_sense(each, part, see) for each in value]
    if not isinstance(value, dict):
        return value
    role = _same(value.get("role", value.get("from", "")))
    found = []
    for key in sorted(value.keys() - set(NAMES)):
        called = _same(key)
        inner = _sense(value[key], f"{part} {role} {called}", see) if key in INNER else _unnamed(value[key])
        found.append([called, role if called == "role" else inner])
    return _said(found)


def _same(name: Any) -> Any:
    return SAME.get(name, name) if isinstance(name, str) else name


def _unnamed(value: Any) -> Any:
    """Return calls without the names that were made for them."""
    if isinstance(value, list):
        return [_unnamed(each) for each in value]
    return {key: each for key, each in value.items() if key not in NAMES} if isinstance(value, dict) else value


def _said(found: list[list[Any]]) -> list[list[Any]]:
    """Return keys and values in the order of the keys, without those that say nothing."""
    return sorted((row for row in found if row[1] not in (None, "", [], {})), key=lambda row: str(row[0]))
