"""What the templates written here have in common: pieces, and tools as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.errors import DataError
from llmx.protocols import Message, Piece

ROLES = ("system", "user", "assistant", "tool")
FILE = "chat_template.jinja"
"""What transformers and vLLM read in a model folder."""
HERE = Path(__file__).parent


def check(messages: Sequence[Message]) -> None:
    """See that a template can write these turns.

    Raises:
        DataError: there are none, or one has a role of another name, which would be written as markup.
    """
    if not messages:
        raise DataError("a chat without messages: give it at least one")
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise DataError(f"message {number}: role {message.role!r} is none of {', '.join(ROLES)}: rename it")


def as_json(value: Any, indent: int | None = None) -> str:
    """Return JSON as transformers' templates have it."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise DataError(f"tools: JSON cannot hold a {type(value).__name__}: {value!r}")


def function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return name and arguments of a call, without the nesting that OpenAI puts around them."""
    inner = call.get("function")
    return inner if isinstance(inner, Mapping) else call


def arguments_of(call: Mapping[str, Any]) -> str:
    """Return the arguments of a call as JSON; those that are text already stay as they are."""
    arguments = call.get("arguments", {})
    return arguments if isinstance(arguments, str) else as_json(arguments)


def mark(text: str, turn: int | None = None) -> Piece:
    """Return markup around what is said."""
    return Piece(text, markup=True, turn=turn)


def said(text: str, turn: int, *, markup: bool = False) -> Piece:
    """Return a part of what a turn says."""
    return Piece(text, markup=markup, trained=True, turn=turn)


def save(folder: Path, text: str) -> None:
    """Write a template into a model folder."""
    (folder / FILE).write_text(text, encoding="utf-8")
