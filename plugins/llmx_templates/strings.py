"""What a template may do to text, each with what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError

from llmx_templates.meter import Meter

if TYPE_CHECKING:
    from llmx_templates.sandbox import BoundedEnvironment

METHODS = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"),
    *("isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "swapcase", "title", "upper"),
)
"""Methods of text that make nothing larger than they are given, and those that `Strings` looks after."""
PART = 80
"""Units for a part that a text is split into: a text of its own, however short."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
PLAIN_FIELD = re.compile(r"%(?:\(\w+\))?(.)", re.DOTALL)


class Strings:
    """Methods of text on a budget."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def call(self, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a method of a text."""
        if name not in METHODS:
            raise SecurityError(f"it calls {name!r} of a text, which no template needs")
        self._meter.charge(len(text))
        if name == "join":
            args = (self.items(text, *args),)
        elif name == "replace":
            self.replace(text, *args[:2])
        elif name in ("split", "rsplit", "splitlines"):
            self.split(text, name, *args[:1], **kwargs)
        elif name in ("strip", "lstrip", "rstrip") and args and args[0]:
            self._meter.charge(len(text) * len(args[0]) // 64)
        elif name in ("startswith", "endswith") and args and isinstance(args[0], tuple):
            self._meter.weigh(args[0])
        found = getattr(text, name)(*args, **kwargs)
        self._meter.charge(self._meter.size(found))
        return found

    def items(self, between: str, items: Iterable[Any]) -> list[Any]:
        """Account for texts that are to be joined, and return them."""
        found = []
        for item in items:
            self._meter.charge(self._meter.size(item) + len(between))
            found.append(item)
        return found

    def replace(self, text: str, old: str, new: str) -> None:
        """Account for a text with parts replaced."""
        self._meter.charge((len(text) + 1 if old == "" else text.count(old)) * len(new))

    def split(self, text: str, name: str, sep: Any = None, **named: Any) -> None:
        """Account for the parts of a text."""
        sep = named.get("sep", sep)
        if name == "splitlines":
            parts = sum(map(text.count, LINE_ENDS))
        elif sep is None:
            most = self._meter.left // PART + 1
            parts = len(text.split(None, most)) if len(text) > most else len(text) // 2
        else:
            parts = text.count(sep) if sep else 0
        self._meter.charge(PART * (parts + 1))


def percent(environment: BoundedEnvironment, form: str, values: Any) -> str:
    """Do what `%` does with a text, for `%s` and `%d` without a width."""
    kinds = PLAIN_FIELD.findall(form)
    if any(kind not in "sd%" for kind in kinds):
        raise SecurityError("it formats text by widths; %s and %d alone can be used")
    if isinstance(values, Mapping):
        values = {key: value if isinstance(value, int) else environment.text(value) for key, value in values.items()}
        environment.meter.charge(len(kinds) * sum(len(str(value)) for value in values.values()))
    elif isinstance(values, tuple):
        values = tuple(value if isinstance(value, int) else environment.text(value) for value in values)
    elif not isinstance(values, int):
        values = environment.text(values)
    return form % values
