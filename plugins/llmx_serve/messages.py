"""Messages and tools of a chat as OpenAI writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from llmx.protocols import ROLES, Message
from llmx_serve.faults import wrong
from llmx_serve.fields import Fields, plain
from llmx_serve.limits import Limits

NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


def read_messages(fields: Fields, limits: Limits) -> tuple[Message, ...]:
    """Return the turns of a chat.

    Raises:
        ApiError: there are none, or one has a role or a content that a model of text cannot read.
    """
    messages = tuple(map(_message, fields.objects("messages", limits.messages)))
    if not messages:
        raise wrong("messages", "must have at least one message", "missing_required_parameter")
    return messages


def _message(fields: Fields) -> Message:
    role = ROLES.get(given := fields.required("role"))
    if role is None:
        raise wrong(fields.at("role"), f"must be one of {', '.join(ROLES)}, not {given[:40]!r}", "invalid_value")
    thought = ""
    calls: tuple[dict[str, Any], ...] = ()
    if role == "assistant":
        thought = fields.string("reasoning_content") or fields.string("reasoning") or ""
        calls = tuple(map(_call, fields.objects("tool_calls", 128)))
    content = _content(fields, ("text", "refusal") if role == "assistant" else ("text",))
    if content is None and role != "assistant":
        raise wrong(fields.at("content"), "is required", "missing_required_parameter")
    return Message(role, content or "", reasoning=thought, tool_calls=calls)


def _content(fields: Fields, kinds: Sequence[str]) -> str | None:
    value = fields.values.get("content")
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(fields.at("content"), f"must be a string or a list of parts, not {plain(value)}", "invalid_type")
    parts = fields.objects("content", 10_000)
    for part in parts:
        if (kind := part.required("type")) not in kinds:
            raise wrong(part.at("type"), f"must be text, for the model reads nothing else, not {kind[:40]!r}")
    return "".join(part.required(part.required("type")) for part in parts)


def _call(fields: Fields) -> dict[str, Any]:
    function = fields.one("function")
    written = function.string("arguments") or "{}"
    try:
        arguments = orjson.loads(written)
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise wrong(function.at("arguments"), "must be a JSON object as a string", "invalid_value")
    return {"name": function.required("name"), "arguments": arguments}


def read_tools(fields: Fields, limits: Limits) -> tuple[dict[str, Any], ...]:
    """Return the tools of the request.

    Raises:
        ApiError: one is no function, or has the name of another.
    """
    tools = tuple(map(_tool, fields.objects("tools", limits.tools)))
    names = [each["function"]["name"] for each in tools]
    if twice := next((number for number, name in enumerate(names) if name in names[:number]), None):
        raise wrong(f"tools.{twice}.function.name", f"{names[twice]!r} is another tool's already", "invalid_value")
    return tools


def _tool(fields: Fields) -> dict[str, Any]:
    if (kind := fields.required("type")) != "function":
        raise wrong(fields.at("type"), f"must be function, not {kind[:40]!r}", "invalid_value")
    function = fields.one("function")
    if not NAME.fullmatch(name := function.required("name")):
        raise wrong(function.at("name"), "must be letters, digits, _, - and ., 128 at most", "invalid_value")
    told: dict[str, Any] = {"name": name, "description": function.string("description") or ""}
    parameters = function.object("parameters")
    if parameters is not None:
        told["parameters"] = dict(parameters.values)
    return {"type": "function", "function": told}
