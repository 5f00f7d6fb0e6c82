"""Values of a request's body, with what is wrong in them told by their path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
from attrs import frozen

from llmx_serve.faults import ApiError, wrong

Choice = TypeVar("Choice", bound=str)
NAMES = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def parse_object(body: bytes, depth: int) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        ApiError: it is no JSON, no object, or nested more than `depth` levels.
    """
    try:
        found = orjson.loads(body)  # refuses NaN, broken UTF-8, lone surrogates and a nesting above 1024 levels
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, f"the body must be a JSON object, not {plain(found)}", code="invalid_json")
    if _deeper(found, depth):
        raise ApiError(400, f"the body is nested more than {depth} levels deep", code="invalid_json")
    return found


def _deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        if not level:
            return False
        inside = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [each for values in inside for each in values if isinstance(each, dict | list)]
    return bool(level)


def plain(value: Any) -> str:
    """Return what a JSON value is called."""
    return "null" if value is None else NAMES.get(type(value), type(value).__name__)


@frozen
class Fields:
    """An object of the body. A field that is absent or null has its default."""

    values: Mapping[str, Any]
    path: str = ""

    def at(self, name: str | int) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else str(name)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def _of(self, name: str, *types: type) -> Any:
        value = self.values.get(name)
        if value is None or (isinstance(value, types) and (bool in types or not isinstance(value, bool))):
            return value
        raise wrong(self.at(name), f"must be {NAMES[types[0]]}, not {plain(value)}", "invalid_type")

    def string(self, name: str) -> str | None:
        found: str | None = self._of(name, str)
        return found

    def required(self, name: str) -> str:
        found = self.string(name)
        if found is None:
            raise wrong(self.at(name), "is required", "missing_required_parameter")
        return found

    def flag(self, name: str) -> bool:
        return bool(self._of(name, bool))

    def integer(self, name: str, least: int, most: int) -> int | None:
        found: int | None = self._of(name, int)
        if found is not None and not least <= found <= most:
            raise wrong(self.at(name), f"must be from {least} to {most}, not {_short(found)}", "value_out_of_range")
        return found

    def number(self, name: str, least: float, most: float) -> float | None:
        found = self._of(name, float, int)
        if found is not None and not (math.isfinite(found) and least <= found <= most):
            raise wrong(self.at(name), f"must be from {least:g} to {most:g}, not {_short(found)}", "value_out_of_range")
        return None if found is None else float(found)

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice | None:
        found = self.string(name)
        if found is not None and found not in choices:
            raise wrong(self.at(name), f"must be one of {', '.join(choices)}, not {_short(found)}", "invalid_value")
        return next((each for each in choices if each == found), None)

    def array(self, name: str, most: int) -> list[Any]:
        found: list[Any] = self._of(name, list) or []
        if len(found) > most:
            raise wrong(self.at(name), f"has {len(found)} items; {most} are the most", "array_above_max_length")
        return found

    def object(self, name: str) -> Fields | None:
        found = self._of(name, dict)
        return None if found is None else Fields(found, self.at(name))

    def objects(self, name: str, most: int) -> list[Fields]:
        """Return the items of a list of objects."""
        inside = Fields({str(number): each for number, each in enumerate(self.array(name, most))}, self.at(name))
        return [inside.one(str(number)) for number in range(len(inside.values))]

    def one(self, name: str) -> Fields:
        """Return an object that must be there."""
        found = self.object(name)
        if found is None:
            raise wrong(self.at(name), "must be an object, not null", "invalid_type")
        return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
