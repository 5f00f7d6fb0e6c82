"""What an assistant thinks before it answers, told apart from the answer while both come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from llmx.protocols import Message, Template

OPEN, CLOSE = "<think>", "</think>"

Part = Literal["reasoning", "content"]


class Splitter:
    """Takes the text of an answer as it comes.

    Args:
        thinking: the prompt has opened a thought already.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self.reasoning = self.content = ""
        self._part: Part | None = "reasoning" if thinking else None
        self._held = ""

    def feed(self, text: str, *, last: bool = False) -> Iterator[tuple[Part, str]]:
        """Yield what of the text is certain by now, each with what it is part of; the marks are left out."""
        self._held += text
        if self._part is None:
            begun = self._held.lstrip()
            if OPEN.startswith(begun[: len(OPEN)]) and len(begun) < len(OPEN) and not last:
                return  # it may become the mark
            self._part = "reasoning" if begun.startswith(OPEN) else "content"
            if self._part == "reasoning":
                self._held = begun.removeprefix(OPEN)
        if self._part == "reasoning":
            thought, closed, rest = self._held.partition(CLOSE)
            if closed:
                yield from self._out(thought.rstrip())
                self._part, self._held = "content", rest
            else:
                keep = 0 if last else _kept(self._held)
                self._held, thought = self._held[len(self._held) - keep :], self._held[: len(self._held) - keep]
                yield from self._out(thought)
        if self._part == "content":
            text, self._held = self._held, ""
            yield from self._out(text)

    def _out(self, text: str) -> Iterator[tuple[Part, str]]:
        """Yield text that begins with no blank, where it is the first of its part."""
        assert self._part is not None
        before = self.reasoning if self._part == "reasoning" else self.content
        marked = self._part == "reasoning" or self.reasoning
        text = text if before or not marked else text.lstrip()
        if self._part == "reasoning":
            self.reasoning += text
        else:
            self.content += text
        if text:
            yield self._part, text


def _kept(text: str) -> int:
    """Return how many characters at the end of a thought may belong to its end: blanks, the beginning of the mark."""
    part = next((n for n in range(min(len(text), len(CLOSE) - 1), 0, -1) if text.endswith(CLOSE[:n])), 0)
    body = text[: len(text) - part]
    return part + len(body) - len(body.rstrip())


def opens_thought(template: Template, messages: tuple[Message, ...]) -> bool:
    """Return whether the template itself begins the assistant's turn with a thought."""
    text = "".join(piece.text for piece in template.pieces(messages, generate=True))
    return text.rstrip().endswith(OPEN)
