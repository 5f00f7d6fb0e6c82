"""Messages through a bounded Jinja template, with errors that name it."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes

from llmx.errors import DataError
from llmx_templates.disguise import texts_in
from llmx_templates.sandbox import BoundedEnvironment, strftime
from llmx_templates.turns import function_of

if TYPE_CHECKING:
    from llmx.protocols import Message
    from llmx_templates.source import Source


def as_plain(message: Message) -> dict[str, Any]:
    """Return a message as transformers' templates see it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        plain = {"thinking": message.reasoning, **plain, "reasoning_content": message.reasoning}
    if message.tool_calls:
        calls = [dict(function_of(call)) for call in message.tool_calls]
        plain["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return plain


class Renderer:
    """A template that writes chats; a broken or greedy one is a `DataError`.

    Raises:
        DataError: it is no Jinja.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.text = source.path, source.text
        self._environment = BoundedEnvironment()
        self._environment.globals["strftime_now"] = functools.partial(
            strftime, datetime.date.fromisoformat(source.date)
        )
        try:
            self._template = self._environment.compile_bounded(source.text)
            tree = self._environment.parse(source.text)
        except Exception as error:  # a stranger's template: whatever it makes Jinja or Python raise
            raise self._fault(error) from error
        found = [each.data for each in tree.find_all(nodes.TemplateData)]
        self.constants = [*found, *(each.value for each in tree.find_all(nodes.Const) if isinstance(each.value, str))]
        """Every text that stands in the template."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Renderer, (self._source,)  # compiled code does not travel between processes

    def __call__(self, chat: Sequence[Mapping[str, Any]], tools: Sequence[Any], generate: bool) -> str:
        """Return the chat as one text.

        Raises:
            DataError: the template refuses it, breaks, takes too long or reaches for what it may not.
        """
        values = {"messages": list(chat), "tools": list(tools) or None, "documents": None}
        meter = self._environment.meter
        try:
            with meter.running(sum(map(len, texts_in([list(chat), list(tools)])))):
                return self._template.render(**self._source.tokens, **values, add_generation_prompt=generate)
        except Exception as error:  # a stranger's template
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> DataError:
        message = str(error).partition("\n")[0][:300]
        if isinstance(error, RecursionError):
            message = "it calls itself without end"
        elif isinstance(error, jinja2.TemplateSyntaxError):
            message = f"line {error.lineno}: {message}"
        elif not isinstance(error, jinja2.TemplateError):
            message = f"{type(error).__name__}: {message}"
        return DataError(f"template {self.path}: {message}; use another, or one of chatml, qwen3, llama")
