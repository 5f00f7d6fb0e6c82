"""What keeps a chat, a question with its answer or a preference pair from being trained on."""

from __future__ import annotations

import json
from typing import Any

from llmx.protocols import CALLS, ROLES

TURNS = ("messages", "conversations", "conversation")
ASKED = (("instruction", "output"), ("query", "response"))
SIDES = ("chosen", "rejected")
SAID = ("content", "value", "reasoning_content", "reasoning", "thinking", "tool_calls", "function_call")
"""Fields of a turn that say something."""

Fault = tuple[str, str]


def chat_fault(record: dict[str, Any]) -> Fault | None:
    """Return the reason and the detail of a record that no dataset reads, or that holds no answer; else None.

    Fields are looked at in the order in which the datasets of files take them.
    """
    if all(record.get(key) is not None for key in SIDES):
        lists = [key for key in ("prompt", *TURNS[1:], *SIDES) if isinstance(record.get(key), list)]
        empty = next((key for key in SIDES if not _says(record[key])), None)
        fault = next(filter(None, (_turns_fault(key, record[key]) for key in lists)), None)
        return fault or (("no-answer", f"{empty} is empty") if empty else None)
    for key in TURNS:
        if record.get(key) is not None:
            return _turns_fault(key, record[key]) or _unanswered(key, _listed(record[key]))
    for asked, answered in ASKED:
        if record.get(asked) is not None and answered in record:
            return None if _says(record[answered]) else ("no-answer", f"{answered} is empty")
    return None


def _listed(turns: Any) -> Any:
    """Return turns, or those that a text holds as JSON, as in columns of tables."""
    try:
        return json.loads(turns) if isinstance(turns, str) else turns
    except (ValueError, RecursionError):
        return turns


def _turns_fault(key: str, turns: Any) -> Fault | None:
    turns = _listed(turns)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "no-turns", f"{key} is no list of messages"
    for number, turn in enumerate(turns):
        role = turn.get("role", turn.get("from"))
        if not isinstance(role, str) or role not in (*ROLES, *CALLS):
            return "role", f"{key}[{number}] has the role {role!r}"
    return None


def _unanswered(key: str, turns: list[dict[str, Any]]) -> Fault | None:
    """Return the fault of a chat in which the assistant neither says nor calls anything."""
    for turn in turns:
        role = str(turn.get("role", turn.get("from")))
        if role in CALLS or (ROLES[role] == "assistant" and any(_says(turn.get(name)) for name in SAID)):
            return None
    return "no-answer", f"{key} has no turn of the assistant that says anything"


def _says(value: Any) -> bool:
    """Return whether a value holds more than white space."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(map(_says, value))
    return any(map(_says, value.values())) if isinstance(value, dict) else value is not None
