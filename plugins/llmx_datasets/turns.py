"""The turns of a chat as datasets write them, made into messages: OpenAI's and ShareGPT's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmx.errors import DataError
from llmx.protocols import CALLS, ROLES, Message

REASONING = ("reasoning_content", "reasoning", "thinking")
LOSS = ("loss", "weight", "train")


def messages_of(turns: Any, key: str, where: str) -> tuple[Message, ...]:
    """Return a list of turns as messages, whether they say role and content or from and value.

    Raises:
        DataError: a turn is none; the message names its place.
    """
    if not isinstance(turns, str) or turns.lstrip().startswith(("[", "{")):  # other text was never meant as JSON
        turns = from_json(turns, key, where)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        kind = ", not text" if isinstance(turns, str) else ""
        raise DataError(f"{where}: {key} must be a list of messages{kind}; set data.text_field to a field with text")
    found: list[Message] = []
    for number, turn in enumerate(turns):
        message, is_call = _message(turn, f"{key}[{number}]", where)
        if is_call and found and found[-1].tool_calls and found[-1].loss == message.loss:
            before = found.pop()  # calls at once stand in a turn each
            message = Message("assistant", before.content, before.loss, before.reasoning,
                              (*before.tool_calls, *message.tool_calls))  # fmt: skip
        found.append(message)
    return tuple(found)


def with_system(system: Any, messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """Return messages after what a record's field `system` says.

    Raises:
        DataError: they begin with another system turn.
    """
    if not system:
        return messages
    text = string(system, "system", where)
    if messages and messages[0].role == "system":
        if messages[0].content != text:
            raise DataError(f"{where}: a field system and another system turn are given; keep one of them")
        return messages
    return (Message("system", text), *messages)


def tools_of(record: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas of the functions that may be called, given as objects or as JSON.

    Raises:
        DataError: they are no list of objects.
    """
    key = "tools" if record.get("tools") else "functions"
    if not record.get(key):
        return ()
    tools = from_json(record[key], key, where)
    if isinstance(tools, list):
        tools = [from_json(tool, key, where) for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"{where}: {key} must be a list of objects, one for each function; mend it")
    string(json.dumps(tools, ensure_ascii=False), key, where)
    if key == "functions":  # OpenAI's older spelling
        return tuple({"type": "function", "function": tool} for tool in tools)
    return tuple(tools)


def _message(turn: Mapping[str, Any], key: str, where: str) -> tuple[Message, bool]:
    given = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    loss = _loss(turn, key, where)
    if given in CALLS:
        return Message("assistant", "", loss, tool_calls=_calls(content, key, where)), True
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        known = ", ".join([*ROLES, *CALLS])
        raise DataError(f"{where}: {key} has the role {given!r}, which none knows; use one of {known}")
    if role != "assistant":
        return Message(role, _content(content, key, where), loss), False
    reasoning = next((turn[name] for name in REASONING if turn.get(name)), "")
    calls = turn.get("tool_calls") or turn.get("function_call")
    return Message(
        role,
        _content(content, key, where),
        loss,
        string(reasoning, f"{key}.reasoning", where),
        _calls(calls, key, where) if calls else (),
    ), False


def _content(value: Any, key: str, where: str) -> str:
    if not isinstance(value, list):
        return string(value, f"{key}.content", where)
    other = next(
        (part for part in value if not (isinstance(part, Mapping) and part.get("type", "text") == "text")), None
    )
    if other is not None:
        kind = other.get("type") if isinstance(other, Mapping) else type(other).__name__
        raise DataError(f"{where}: {key}.content holds a part of type {kind!r}; only text can be read: leave it out")
    return "".join(string(part.get("text"), f"{key}.content", where) for part in value)


def _loss(turn: Mapping[str, Any], key: str, where: str) -> bool | None:
    name = next((name for name in LOSS if turn.get(name) is not None), None)
    if name is None:
        return None
    value = turn[name]
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise DataError(f"{where}: {key}.{name} must be true or false, 1 or 0, not {value!r}; mend it")
    return bool(value)


def _calls(given: Any, key: str, where: str) -> tuple[Mapping[str, Any], ...]:
    given = from_json(given, f"{key} (a call)", where)
    return tuple(_call(call, key, where) for call in (given if isinstance(given, list) else [given]))


def _call(call: Any, key: str, where: str) -> Mapping[str, Any]:
    call = from_json(call, f"{key} (a call)", where)
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise DataError(f"{where}: {key} calls a function that has no name; mend it")
    arguments = from_json(inner.get("arguments") or {}, f"{key}: the arguments of {inner['name']}", where)
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}: {key}: the arguments of {inner['name']} must be an object, or one as JSON; mend it")
    found = {"name": inner["name"], "arguments": arguments}
    string(json.dumps(found, ensure_ascii=False), key, where)
    return found


def from_json(value: Any, key: str, where: str) -> Any:
    """Return a value, or what it says where it is JSON in a text, as in the columns of a table.

    Raises:
        DataError: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {key} must be JSON: {error}; mend it") from error


def pairs_of(history: Any, where: str) -> tuple[Message, ...]:
    """Return a field `history` of question and answer pairs as messages.

    Raises:
        DataError: it is no list of pairs.
    """
    history = from_json(history, "history", where)
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        raise DataError(f"{where}: history must be a list of [question, answer]; mend it")
    found: list[Message] = []
    for question, answer in history:
        found += [
            Message("user", string(question, "history", where)),
            Message("assistant", string(answer, "history", where)),
        ]
    return tuple(found)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2


def string(value: Any, key: str, where: str) -> str:
    """Return a text, "" for null.

    Raises:
        DataError: it is no text, or one that UTF-8 cannot spell.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f"{where}: {key} must be text, not {kind}; set data.text_field to a field with text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, UTF-8 cannot
        raise DataError(
            f"{where}: {key} holds half a surrogate pair, \\u{ord(value[error.start]):04x}; mend it"
        ) from error
    return value
