"""Scores by rule: what an answer must hold, say, or look like."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

from attrs import field, frozen, validators

from llmx.errors import MissingPackageError

THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


@frozen
class Expect:
    """What is expected of an answer; each string and each limit is a rule of its own.

    Space around an answer, and what a model thinks before it between <think> and </think>, are no part of it.
    """

    contains: list[str] | str = field(factory=list)
    """Strings that must stand in it."""
    excludes: list[str] | str = field(factory=list)
    """Strings that must not."""
    equals: list[str] | str = field(factory=list)
    """What it must be; one of them where there are several."""
    regex: list[str] | str = field(factory=list)
    """Regular expressions of Python that must be found in it."""
    json: bool = False
    """Whether it must be JSON, with or without a Markdown fence around it."""
    json_schema: dict[str, Any] | None = None
    """A JSON Schema (2020-12) that it must meet as JSON. Needs the package jsonschema."""
    max_chars: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """Most characters."""
    min_chars: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """Fewest characters."""
    ignore_case: bool = False
    """Whether capitals count as small letters in all rules on strings."""

    def __attrs_post_init__(self) -> None:
        for pattern in listed(self.regex):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regex: {pattern!r} is no regular expression: {error}") from None
        if self.json_schema is not None:
            _validator(self.json_schema)
        if not self.count:
            raise ValueError("says nothing that could be checked: leave it out")

    @property
    def count(self) -> int:
        """How many rules there are."""
        strings = sum(len(listed(each)) for each in (self.contains, self.excludes, self.regex))
        flags = (bool(listed(self.equals)), self.json, self.json_schema is not None)
        return strings + sum(flags) + sum(each is not None for each in (self.max_chars, self.min_chars))


def listed(value: list[str] | str) -> list[str]:
    """Return one string as a list of it."""
    return [value] if isinstance(value, str) else list(value)


def spoken(answer: str) -> str:
    """Return an answer without what the model thought before it and without space around it."""
    return THOUGHT.sub("", answer).strip()


def broken_rules(answer: str, rules: Expect) -> list[str]:
    """Return, for people, the rules that an answer does not meet."""
    text = spoken(answer)
    flags = re.IGNORECASE if rules.ignore_case else 0

    def fold(given: str) -> str:
        return given.casefold() if rules.ignore_case else given

    found = [f"contains {each!r}" for each in listed(rules.contains) if fold(each) not in fold(text)]
    found += [f"excludes {each!r}" for each in listed(rules.excludes) if fold(each) in fold(text)]
    wanted = listed(rules.equals)
    if wanted and fold(text) not in {fold(each.strip()) for each in wanted}:
        found.append(f"equals {' or '.join(map(repr, wanted))}")
    found += [f"regex {each!r}" for each in listed(rules.regex) if not re.search(each, text, flags)]
    found += _json_faults(text, rules)
    if rules.max_chars is not None and len(text) > rules.max_chars:
        found.append(f"max_chars {rules.max_chars} (it has {len(text)})")
    if rules.min_chars is not None and len(text) < rules.min_chars:
        found.append(f"min_chars {rules.min_chars} (it has {len(text)})")
    return found


def rule_score(broken: int, rules: Expect) -> float:
    """Return the share of rules that are met."""
    return 1 - broken / rules.count


def _json_faults(text: str, rules: Expect) -> list[str]:
    if not rules.json and rules.json_schema is None:
        return []
    fence = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", text, re.DOTALL)
    try:
        value = json.loads(fence[1] if fence else text)
    except (ValueError, RecursionError):
        return ["json"] * rules.json + ["json_schema (no JSON)"] * (rules.json_schema is not None)
    if rules.json_schema is None:
        return []
    fault = next(iter(_validator(rules.json_schema).iter_errors(value)), None)
    return [] if fault is None else [f"json_schema ({fault.json_path}: {fault.message[:120]})"]


def _validator(schema: dict[str, Any]) -> Any:
    """Return what checks a schema; it fetches nothing.

    Raises:
        ValueError: it is no schema.
        MissingPackageError: jsonschema is not installed.
    """
    try:
        jsonschema, referencing = map(importlib.import_module, ("jsonschema", "referencing"))
    except ImportError:
        text = "expect.json_schema: needs the package jsonschema: pip install jsonschema"
        raise MissingPackageError(text, "jsonschema") from None
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"json_schema: {error.json_path}: {error.message[:200]}") from None
    for place in _references(schema):
        if not place.startswith("#"):
            raise ValueError(f"json_schema: refers to {place!r}, which is not in it")
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry())


def _references(value: Any) -> Iterator[str]:
    """Yield what a schema refers to, wherever it does."""
    for name, each in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if name in ("$ref", "$dynamicRef") and isinstance(each, str):
            yield each
        yield from _references(each)
