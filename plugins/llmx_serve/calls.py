"""`tool_choice`: which tools the model is told of, and an answer that is a call whatever it would say."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any, TypeAlias

import orjson
from attrs import frozen

from llmx.speech import Said
from llmx_serve.faults import wrong
from llmx_serve.fields import Fields
from llmx_serve.limits import Limits
from llmx_serve.schema import check_keywords, check_schema

NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
"""What the arguments are of a function without parameters."""
HEAD = re.compile(r'\{"name": "([\w.-]+)", "arguments": ', re.ASCII)
"""How an answer begins that may call any tool: the sampler spells JSON with these spaces and none else."""

Tools: TypeAlias = tuple[dict[str, Any], ...]


@frozen
class Forced:
    """A call that an answer has to be.

    Attributes:
        named: the function that the request names; None where any of its tools may be called.
        schema: of the whole answer: the arguments of that function, or an object with a name and arguments.
    """

    named: str | None
    schema: Mapping[str, Any]


def forces(fields: Fields) -> bool:
    """Return whether `tool_choice` asks for more than the model would choose."""
    return _mode(fields) not in (None, "none", "auto")


def told_tools(fields: Fields, tools: Tools, limits: Limits) -> Tools:
    """Return the tools that the model is told of: all but where `tool_choice` says none, or lists which are allowed.

    Raises:
        ApiError: the list is of a wrong form, or names what is no tool of the request.
    """
    if fields.values.get("tool_choice") == "none":
        return ()
    if not _lists_tools(fields.values.get("tool_choice")):
        return tools
    allowed = fields.one("tool_choice").one("allowed_tools")
    allowed.required("mode")
    allowed.choice("mode", ("auto", "required"))
    known = [each["function"]["name"] for each in tools]
    names = {_known(each.one("function"), known) for each in allowed.objects("tools", limits.tools)}
    return tuple(each for each in tools if each["function"]["name"] in names)


def read_forced(fields: Fields, tools: Tools, limits: Limits) -> Forced | None:
    """Return what `tool_choice` forces; None where the model may choose to say something else.

    Raises:
        ApiError: it is of a wrong form, names no tool, or the parameters of a tool are no object or too large.
    """
    if not forces(fields):
        return None
    schemas = {each["function"]["name"]: each["function"].get("parameters") or NOTHING for each in tools}
    named = None if _mode(fields) == "required" else _named(fields, schemas)
    if not tools:
        raise wrong("tool_choice", "needs tools", "invalid_value")
    for number, each in enumerate(fields.values["tools"]):  # as the request counts them
        name = each["function"]["name"]
        if name in ({named} if named else schemas) and schemas[name].get("type") != "object":
            raise wrong(f"tools.{number}.function.parameters.type", "must be object", "invalid_value")
        check_keywords(schemas.get(name), f"tools.{number}.function.parameters")
    schema = _any_of(schemas) if named is None else schemas[named]
    check_schema(schema, "tools", limits)
    return Forced(named, schema)


def _lists_tools(choice: object) -> bool:
    return isinstance(choice, dict) and choice.get("type") == "allowed_tools"


def _mode(fields: Fields) -> Any:
    """Return `tool_choice`, or what it says of the tools that it lists."""
    choice = fields.values.get("tool_choice")
    listed = choice.get("allowed_tools") if _lists_tools(choice) else None
    return listed.get("mode") if isinstance(listed, dict) else choice


def _named(fields: Fields, known: Container[str]) -> str:
    choice = fields.values["tool_choice"]
    if not isinstance(choice, dict) or choice.get("type") != "function":
        raise wrong("tool_choice", "must be none, auto, required or a function, or allowed_tools", "invalid_value")
    return _known(fields.one("tool_choice").one("function"), known)


def _known(function: Fields, known: Container[str]) -> str:
    if (name := function.required("name")) not in known:
        raise wrong(function.at("name"), f"must be one of tools, not {name[:40]!r}", "invalid_value")
    return name


def _any_of(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a call of any function; what a schema refers to within itself it finds in its new place."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{name}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name in schemas
    ]
    return {"anyOf": calls, "$defs": {name: _moved(schema, f"#/$defs/{name}") for name, schema in schemas.items()}}


def _moved(schema: Any, place: str) -> Any:
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _moved(value, place) for key, value in schema.items()}
    own = found.get("$ref")
    return {**found, "$ref": place + own[1:]} if isinstance(own, str) and own.startswith("#") else found


class CallSpeech:
    """An answer that is a call, told while it comes; used as `llmx.speech.Speech` is.

    Args:
        named: the function whose arguments the answer is; None where the answer says it.

    Attributes:
        whole: whether the answer came to its end, once it has ended.
    """

    def __init__(self, named: str | None) -> None:
        self.whole = False
        self._arguments: list[str] = []
        self._named = named
        self._around = 0 if named else 1  # the brace after the arguments
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> list[Said]:
        """Return what became certain with a text."""
        self._held += text
        said = [] if self._begun else self._begin()
        if self._begun and (size := len(self._held) - self._around) > 0:
            said.append(Said("arguments", self._held[:size]))
            self._arguments.append(self._held[:size])
            self._held = self._held[size:]
        return said

    def finish(self) -> list[Said]:
        """Return what is left: of an answer that was cut off the last character, which is not the brace after all."""
        self.whole = self._begun and self._held == "}" * self._around and _is_json("".join(self._arguments))
        return [] if self.whole or not self._held or not self._begun else [Said("arguments", self._held)]

    def _begin(self) -> list[Said]:
        name = self._named
        if name is None:
            head = HEAD.match(self._held)
            if head is None:
                return []
            name, self._held = head[1], self._held[head.end() :]
        elif not self._held:
            return []
        self._begun = True
        return [Said("call", "", name)]


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
