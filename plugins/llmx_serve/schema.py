"""`response_format`: answers that are JSON, or JSON of a schema."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from llmx_serve.faults import wrong
from llmx_serve.fields import Fields
from llmx_serve.limits import Limits
from llmx_serve.sampling import Link

FORMS = ("text", "json_object", "json_schema")
REPEAT = re.compile(r"[{,](\d{1,9})(?=[,}])")
"""The counts in a regular expression: `a{2,10}`."""
UNKEPT = ("not", "if", "then", "else", "multipleOf", "uniqueItems", "contains", "dependentRequired", "dependentSchemas")
"""Keywords of which xgrammar makes nothing."""
NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose own keys are names."""
DATA = ("const", "enum", "default", "examples")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")


def read_form(fields: Fields, limits: Limits, stop: Sequence[str]) -> tuple[Link, ...]:
    """Return the sampler that keeps an answer to `response_format`, if it asks for any.

    Args:
        stop: special tokens that may end the answer.

    Raises:
        ApiError: it is of a wrong form, or the schema is too large.
    """
    form = fields.object("response_format")
    if form is None:
        return ()
    form.required("type")
    kind = form.choice("type", FORMS)
    if kind == "text":
        return ()
    schema: Any = {"type": "object"}
    if kind == "json_schema":
        given = form.one("json_schema")
        schema = given.one("schema").values
        check_schema(schema, given.at("schema"), limits)
        check_keywords(schema, given.at("schema"))
    return kept_to(schema, stop)


def kept_to(schema: Any, stop: Sequence[str]) -> tuple[Link, ...]:
    """Return the sampler that keeps an answer to a schema; the special tokens `stop` may end it."""
    return (("json-schema", {"schema": orjson.dumps(schema).decode(), "stop": list(stop)}),)


def check_schema(schema: Any, where: str, limits: Limits) -> None:
    """See that a grammar of the schema is made in a few seconds.

    Raises:
        ApiError: it is too large for that.
    """
    if len(orjson.dumps(schema)) > limits.schema_bytes:
        raise wrong(where, f"is longer than {limits.schema_bytes} bytes", "invalid_value")
    nodes, level = [], [schema]
    while level:
        objects = [each for each in level if isinstance(each, dict)]
        nodes += objects
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [value for values in inside for value in values]
    if len(nodes) > limits.schema_nodes:
        raise wrong(where, f"has {len(nodes)} objects; {limits.schema_nodes} are the most", "invalid_value")
    counts = [max(0, each[name]) for each in nodes for name in COUNTS if isinstance(each.get(name), int | float)]
    repeated = [int(count) for each in nodes for pattern in _patterns(each) for count in REPEAT.findall(pattern)]
    if sum(counts) + sum(repeated) > limits.schema_counts:
        text = f"its lengths and counts are more than {limits.schema_counts} together"
        raise wrong(where, text, "invalid_value")


def check_keywords(schema: Any, where: str) -> None:
    """See that a schema asks for nothing that the grammar would leave out without a word.

    Raises:
        ApiError: it does, with the path in the schema.
    """
    left = [(where, schema)]
    while left:
        path, node = left.pop()
        if isinstance(node, list):
            left += [(f"{path}.{number}", each) for number, each in enumerate(node)]
        if not isinstance(node, dict):
            continue
        if unkept := _unkept(node):
            text = f"{unkept} cannot be kept to: leave it out, or say it in the prompt"
            raise wrong(f"{path}.{unkept.partition(' ')[0]}", text, "unsupported_value")
        for key, value in node.items():
            if key in NAMED and isinstance(value, dict):
                left += [(f"{path}.{key}.{name}", each) for name, each in value.items()]
            elif key not in DATA:
                left.append((f"{path}.{key}", value))


def _unkept(node: dict[str, Any]) -> str | None:
    """Return the keyword of an object in a schema that no grammar is made of, with what it does not go with."""
    found = next((name for name in UNKEPT if node.get(name) not in (None, False)), None)
    if isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1:
        return "allOf of several"
    if "pattern" in node and ("minLength" in node or "maxLength" in node):
        return "pattern with a length"
    if not str(node.get("$ref", "#")).startswith("#"):
        return "$ref to elsewhere"
    return found


def _patterns(node: dict[str, Any]) -> list[str]:
    """Return the regular expressions of an object in a schema."""
    named = node.get("patternProperties")
    given = (node.get("pattern"), *(named if isinstance(named, dict) else ()))
    return [each for each in given if isinstance(each, str)]
