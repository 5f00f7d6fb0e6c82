"""The filters a template may use, each with what it costs."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llmx_templates.meter import ITEM, OverBudgetError

if TYPE_CHECKING:
    from llmx_templates.sandbox import BoundedEnvironment

FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent", "int"),
    *("items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace"),
    *("reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "unique", "upper"),
)
"""What published chat templates use, and near relatives; those that make long results of short input are left out."""
ORDERING = frozenset({"sort", "dictsort", "unique", "min", "max"})
DEEPEST_INDENT = 64


class Filters:
    """Jinja's filters on a budget."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment
        self._meter = environment.meter

    def metered(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that accounts for what it is given and what it makes."""
        place = 1 if hasattr(original, "jinja_pass_arg") else 0
        before = getattr(self, f"_{name}", None)

        @functools.wraps(original)  # its marks too: what Jinja passes it first
        def bounded(*args: Any, **kwargs: Any) -> Any:
            first, value, rest = args[:place], args[place], args[place + 1 :]
            self._meter.charge(self._meter.size(value))
            if name in ORDERING:
                value = self._ordered(value)
            if before is not None:
                value = before(value, *rest, **kwargs)
            found = original(*first, value, *rest, **kwargs)
            self._meter.charge(self._meter.size(found))
            return found

        return bounded

    def _listed(self, value: Iterable[Any], units: int = ITEM) -> list[Any]:
        found = []
        for item in value:
            self._meter.charge(units)
            found.append(item)
        return found

    def _ordered(self, value: Any) -> Any:
        """Account for comparisons: each element is looked at as often as a sorted list is halved."""
        value = value if isinstance(value, dict) else self._listed(value)
        for _ in range(len(value).bit_length()):
            self._meter.weigh(value)
        return value

    def _list(self, value: Any) -> Any:
        return self._listed(value, 80 if isinstance(value, str) else ITEM)

    def _join(self, value: Any, d: str = "", attribute: Any = None) -> Any:
        items = self._listed(value)
        if attribute is None:
            items = [self._environment.text(item) for item in items]
        else:
            self._meter.weigh(items, per_character=4)
        self._meter.charge(len(items) * len(d))
        return items

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> Any:
        self._environment.strings.replace(value, str(old), str(new))
        return value

    def _trim(self, value: Any, chars: str | None = None) -> Any:
        self._meter.charge(len(value) * len(chars or "") // 64)
        return value

    def _string(self, value: Any) -> Any:
        return self._environment.text(value)

    def _indent(self, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        size = width if isinstance(width, int) else len(width)
        if size > DEEPEST_INDENT:
            raise OverBudgetError(f"it indents by {size} characters")
        self._meter.charge((s.count("\n") + 1) * size)
        return s

    def _sum(self, value: Any, attribute: Any = None, start: Any = 0) -> Any:
        if not isinstance(start, numbers.Number):
            raise OverBudgetError("it sums what are no numbers")
        return self._listed(value)

    def _round(self, value: Any, precision: int = 0, method: str = "common") -> Any:
        if abs(precision) > ITEM:
            raise OverBudgetError(f"it rounds to {precision} places")
        return value

    def _int(self, value: Any, default: int = 0, base: int = 10) -> Any:
        if isinstance(value, str) and len(value) > 1000:
            raise OverBudgetError(f"it reads a number of {len(value)} characters")
        return value
