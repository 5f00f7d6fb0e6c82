"""Messages in OpenAI's form, as a line of a file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmx.errors import DataError
from llmx.protocols import ROLES, Message


def messages_of(given: Any, *, answered: bool = False) -> tuple[Message, ...]:
    """Return messages in OpenAI's form that an assistant is to answer.

    Args:
        answered: they may end with what an assistant said.

    Raises:
        DataError: they are none, or end with what an assistant said.
    """
    if not isinstance(given, list) or not given:
        raise DataError("messages: must be a list with a message or more")
    found = tuple(message_of(each, f"messages[{number}]") for number, each in enumerate(given))
    if found[-1].role == "assistant" and not answered:
        raise DataError("messages: end with the assistant's: there is nothing left to answer")
    return found


def message_of(given: Any, path: str) -> Message:
    """Return one of them, which stands at `path`.

    Raises:
        DataError: it is none.
    """
    role = given.get("role") if isinstance(given, Mapping) else None
    if not isinstance(role, str) or role not in ROLES:
        raise DataError(f"{path}: must have a role, one of {', '.join(ROLES)}")
    calls = given.get("tool_calls") or []
    if not isinstance(calls, list):
        raise DataError(f"{path}.tool_calls: must be a list, not {calls!r}")
    content = given.get("content")
    reasoning = given.get("reasoning_content") or ""
    if not isinstance(reasoning, str):
        raise DataError(f"{path}.reasoning_content: must be text, not {reasoning!r}")
    return Message(
        ROLES[role],
        "" if content is None and calls else text_of(content, f"{path}.content"),
        reasoning=reasoning,
        tool_calls=tuple(_call(call, path) for call in calls),
    )


def text_of(content: Any, path: str) -> str:
    """Return the content of a message: text, or parts of text, `{"type": "text", "text": ...}` each.

    Raises:
        DataError: it is neither.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{path}: must be text, not {content!r}")
    texts = []
    for number, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise DataError(f'{path}[{number}]: must be a part {{"type": "text", "text": "..."}}: only text is asked')
        texts.append(text)
    return "".join(texts)


def _call(given: Any, path: str) -> Mapping[str, Any]:
    call = given.get("function", given) if isinstance(given, Mapping) else None
    name, arguments = (call.get("name"), call.get("arguments", {})) if isinstance(call, Mapping) else (None, None)
    try:
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise DataError(f"{path}.tool_calls: each must have a name and arguments that are an object")
    return {"name": name, "arguments": arguments}
