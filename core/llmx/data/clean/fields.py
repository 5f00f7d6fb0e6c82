"""The texts of a record, wherever its form keeps them, and the record with other texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

KNOWN = (
    *("text", "content", "instruction", "input", "output", "query", "response", "prompt", "completion"),
    *("question", "answer", "system", "history", "messages", "conversations", "chosen", "rejected"),
)
"""Fields of the usual forms: plain text, instructions, questions, chats, preference pairs."""

INNER = ("content", "value", "text", "reasoning_content", "reasoning")
"""Fields of a turn, or of a part of one; its role and its calls are no text."""

Change = Callable[[str], str]


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
