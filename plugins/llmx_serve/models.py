"""The models of a server, and what their templates can do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import DataError
from llmx.protocols import Message
from llmx.speech import opens_thought
from llmx_serve.faults import ApiError

if TYPE_CHECKING:
    from llmx.generate.engine import Engine
    from llmx.generate.language_model import LanguageModel
    from llmx.generate.request import Request

ASKED = (Message("user", "Hello."),)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@frozen(eq=False)
class Base:
    """A model folder that was loaded: its engine answers for itself and for its adapted forms."""

    model: LanguageModel
    engine: Engine
    created_s: int = field(factory=lambda: int(time.time()))

    @classmethod
    def start(cls, model: LanguageModel, **options: Any) -> Base:
        """Give a model an engine that runs in a thread; `options` are the engine's."""
        engine = model.new_engine(**options)
        engine.start()
        return cls(model, engine)


class Served:
    """A model by the name that requests give.

    Attributes:
        form: what the engine calls it; None is the model without an adapter.
    """

    def __init__(self, name: str, base: Base, form: str | None = None) -> None:
        self.name, self.base, self.form = name, base, form
        shape = base.model.model if form is None else base.model.adapted[form]
        self.context_length, self.vocab_size = shape.context_length, shape.vocab_size

    @cached_property
    def blank(self) -> Request:
        """A request to be filled in, for prompts that are ids already."""
        return self.base.model.request("a")

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the template begins an assistant's turn within a thought."""
        template = self.base.model.template
        return template is not None and opens_thought(template, ASKED)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes tools."""
        template = self.base.model.template
        if template is None:
            return False
        try:
            return list(template.pieces(ASKED, (TOOL,), generate=True)) != list(template.pieces(ASKED, generate=True))
        except DataError:
            return False

    def card(self) -> dict[str, Any]:
        """Return what `/v1/models` says of it: OpenAI's fields, and what the page wants to know."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.base.created_s,
            "owned_by": "llmx",
            "max_model_len": self.context_length,
            "chat": self.base.model.template is not None,
            "tools": self.takes_tools,
        }


class Models:
    """All of a server's models; the first answers where a request names none."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.by_name: Mapping[str, Served] = {each.name: each for each in served}
        self.bases = list({id(each.base): each.base for each in served}.values())

    def named(self, name: str | None) -> Served:
        """Return a model.

        Raises:
            ApiError: there is none of that name.
        """
        if name is None:
            return next(iter(self.by_name.values()))
        if name not in self.by_name:
            shown = name if len(name) <= 100 else name[:97] + "..."
            text = f"model {shown!r} does not exist; there are: {', '.join(self.by_name)}"
            raise ApiError(404, text, "model", "model_not_found")
        return self.by_name[name]

    @property
    def alive(self) -> bool:
        """Whether every engine answers."""
        return all(base.engine.alive for base in self.bases)

    def close(self, drain_s: float = 0.0) -> None:
        """End the engines."""
        for base in self.bases:
            base.engine.close(drain_s)
