"""Jinja for templates of strangers: what they name is on a list, and what they do is on a budget."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llmx_templates.accounting import account
from llmx_templates.filters import FILTERS, Filters
from llmx_templates.meter import ITEM, Meter, OverBudgetError
from llmx_templates.strings import METHODS, Strings, percent

MOST_SOURCE = 1_000_000
"""Characters of a template; published ones have a few thousand."""
MOST_RANGE = 100_000
MOST_BITS = 10_000
"""Size of a whole number that a template may make."""
VIEWS = frozenset({"items", "keys", "values", "get"})
PLACES = frozenset({"index", "count"})
SCOPES = frozenset({"_loop_vars", "_block_vars"})
"""What Jinja's compiled code hands to whatever it calls."""
DATE = re.compile(r"(?:[^%]|%-?[A-Za-z%])*")


class GenerationTag(Extension):
    """`{% generation %}` marks what an assistant says for transformers; here it is only passed over."""

    tags = {"generation"}  # noqa: RUF012  # as the base class has it

    def parse(self, parser: Any) -> nodes.Node:
        """Return the content of the tag as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of transformers' chat templates, with a list of what may be named and a budget for the rest."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.meter = Meter()
        self.strings = Strings(self.meter)
        self.finalize: Callable[[Any], str] = self.text
        filters = Filters(self)
        self.filters = {name: filters.metered(name, self.filters[name]) for name in FILTERS}
        self.filters["tojson"] = self.to_json
        self.globals = {
            "range": self.bounded_range,
            "namespace": Namespace,
            "dict": self.new_dict,
            "raise_exception": raise_exception,
        }

    def compile_bounded(self, source: str) -> jinja2.Template:
        """Return a template that accounts for every step.

        Raises:
            TemplateError: it is no Jinja, or too long.
        """
        if len(source) > MOST_SOURCE:
            raise OverBudgetError(f"it has {len(source)} characters; a template has {MOST_SOURCE} at most")
        with self.meter.running(len(source)):  # constant expressions are worked out here
            tree = account(self.parse(source), self)
            return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    # --- what generated code calls; templates cannot name these ------------------------------------------------------

    def tick(self, units: int) -> bool:
        """Account for one turn of a loop or a macro, whose body holds that many characters."""
        self.meter.charge(units)
        return True

    def checked(self, value: Any) -> Any:
        """Account for a value that was cut or compared."""
        self.meter.look()
        self.meter.charge(self.meter.size(value))
        return value

    def built(self, value: Any) -> Any:
        """Account for a list or mapping that was written out, with all that is in it."""
        self.meter.weigh(value)
        return value

    def joined(self, *parts: Any) -> str:
        """Do what `~` does."""
        return "".join([self.text(part) for part in parts])

    def text(self, value: Any) -> str:
        """Return a value as it is printed.

        Raises:
            SecurityError: it is none that a chat is made of.
        """
        if isinstance(value, str):
            self.meter.charge(len(value))
            return value
        if isinstance(value, list | tuple | Mapping):
            self.meter.weigh(value, per_character=4)  # a character may be written as \x00 and longer
        elif isinstance(value, int):
            _bounded_number(value)
        elif not (value is None or isinstance(value, float | Undefined)):
            raise SecurityError(f"it prints a {type(value).__name__}")
        return str(value)

    # --- what the sandbox asks ---------------------------------------------------------------------------------------

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow what templates use of strings, mappings and lists, and what Jinja's own objects show."""
        if isinstance(obj, str):
            return attr in METHODS
        if isinstance(obj, Mapping):
            return attr in VIEWS
        if isinstance(obj, list | tuple):
            return attr in PLACES
        return isinstance(obj, LoopContext | Namespace | Macro) and not attr.startswith("_")

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Stop at once; Jinja itself would print nothing."""
        raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}, which no template needs")

    def wrap_str_format(self, value: Any) -> None:
        """Leave out `str.format`, which Jinja's sandbox allows: its widths make texts of any length."""

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls."""
        self.meter.charge(0)
        owner = getattr(obj, "__self__", None)
        if owner is self or isinstance(owner, str):
            named = {name: value for name, value in kwargs.items() if name not in SCOPES}
            if owner is self:
                return obj(*args, **named)
            return self.strings.call(owner, obj.__name__, args, named)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Do what an operator does where its result is bounded."""
        if operator == "%" and isinstance(left, str):
            return percent(self, left, right)
        both = (left, right)
        if any(isinstance(each, str | list | tuple) for each in both):
            times = next((each for each in both if isinstance(each, int)), 1) if operator == "*" else 1
            self.meter.charge(max(0, times) * sum(map(self.meter.size, both)))
        elif operator == "**":
            if abs(right) > 64 or abs(left) > 1e9:
                raise OverBudgetError("it raises a number to a power that no chat needs")
        elif all(isinstance(each, int) for each in both):
            _bounded_number(left, right)
        return super().call_binop(context, operator, left, right)

    # --- what a template may name ------------------------------------------------------------------------------------

    def bounded_range(self, *arguments: int) -> range:
        """Return `range`, not longer than Jinja's sandbox has it."""
        found = range(*arguments)
        if max(map(abs, arguments)) > 2**62 or len(found) > MOST_RANGE:
            raise OverBudgetError(f"it counts to more than {MOST_RANGE}")
        self.meter.charge(len(found))
        return found

    def new_dict(self, *arguments: Any, **named: Any) -> dict[Any, Any]:
        """Return a mapping."""
        self.meter.weigh((arguments, named))
        return dict(*arguments, **named)

    def to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """Return JSON as transformers' templates have it."""
        if not (indent is None or (isinstance(indent, int) and 0 <= indent <= 16)):
            raise OverBudgetError(f"it indents JSON by {indent!r}")
        if separators is not None and max(map(len, separators)) > ITEM:
            raise OverBudgetError("it separates JSON by long texts")
        self.meter.weigh(value, per_character=6, indent=indent or 0)
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _bounded_number(*numbers: int) -> None:
    if sum(number.bit_length() for number in numbers) > MOST_BITS:
        raise OverBudgetError("it makes a number that no chat needs")


def raise_exception(message: str) -> None:
    """Refuse a chat, with a template's own words."""
    raise TemplateError(str(message)[:1000])


def strftime(day: Any, form: str) -> str:
    """Return a day in a form without widths, which could be of any length."""
    if len(form) > 100 or not DATE.fullmatch(form):
        raise SecurityError(f"it asks for the date in an unusual form: {form[:100]!r}")
    found: str = day.strftime(form)
    return found
