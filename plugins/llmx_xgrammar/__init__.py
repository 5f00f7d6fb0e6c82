"""A sampler that keeps answers to a JSON schema, by xgrammar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import Attribute, field, frozen

from llmx import Component, hookimpl


def _is_json(_: Any, attribute: Attribute[str], value: str) -> None:
    import json

    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{attribute.name!r} must be a JSON schema: {error}") from error
    if not isinstance(found, dict | bool):
        raise ValueError(f"{attribute.name!r} must be a JSON schema, an object: {value[:60]}")


@frozen
class JsonSchemaOptions:
    schema: str = field(default='{"type": "object"}', validator=_is_json)
    """The schema that every answer keeps to, as JSON. The default is any object. An answer that its token budget ends
    is the beginning of one that would."""
    stop: tuple[str, ...] = ()
    """Special tokens that may end an answer besides the tokenizer's end of a text: those that end an assistant's turn.
    Until the JSON is whole none of them can be drawn, and then nothing else."""


@hookimpl
def llmx_samplers() -> Iterable[Component]:
    return [
        Component(
            name="json-schema",
            target="llmx_xgrammar.sampler:JsonSchema",
            options=JsonSchemaOptions,
            summary="keeps the answer to a JSON schema (xgrammar)",
        )
    ]
