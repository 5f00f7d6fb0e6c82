"""What an assistant says taken apart while it comes: thoughts, content, calls of tools.

Thoughts stand between `<think>` and `</think>`, calls as JSON between `<tool_call>` and `</tool_call>`: so Qwen and
Hermes write them, and the templates here.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson
from attrs import frozen

from llmx.protocols import Message, Template

THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"


@frozen
class Said:
    """A part of what was said.

    Attributes:
        kind: "arguments" is more of those of the call before.
        text: of a call, its arguments as JSON.
        name: of a call, the function's.
    """

    kind: Literal["reasoning", "content", "call", "arguments"]
    text: str
    name: str = ""


class Speech:
    """One answer. What may be the beginning of a tag, or the white space before it, is held back.

    Args:
        thinking: the template has opened a thought already.
        tools: calls are looked for.
    """

    def __init__(self, *, thinking: bool = False, tools: bool = False) -> None:
        self.calls = 0
        self._tools = tools
        self._held = ""
        self._state = self._opening_thought if thinking else self._start
        self._ended = False

    def feed(self, text: str) -> list[Said]:
        """Return what became certain with a text."""
        self._held += text
        said: list[Said] = []
        state = None
        while self._held and state != self._state:
            state = self._state
            said += state()
        return said

    def finish(self) -> list[Said]:
        """Return what is left."""
        self._ended = True
        return self.feed("")

    # --- states: each takes from what is held, and may choose the next ----------------------------------------------

    def _start(self) -> list[Said]:
        begun = self._held.lstrip()
        if begun.startswith(THINK):
            self._held, self._state = begun.removeprefix(THINK), self._opening_thought
        elif self._ended or not THINK.startswith(begun):
            self._state = self._content
        return []

    def _opening_thought(self) -> list[Said]:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = self._thought
        return []

    def _thought(self) -> list[Said]:
        text, found = self._until(THOUGHT)
        if found:
            self._state = self._after_thought
        return [Said("reasoning", text)] if text else []

    def _after_thought(self) -> list[Said]:
        self._held = self._held.lstrip("\n")
        if self._held:
            self._state = self._content
        return []

    def _content(self) -> list[Said]:
        if not self._tools:
            text, self._held = self._held, ""
            return [Said("content", text)] if text else []
        text, found = self._until(CALL)
        if found:
            self._state = self._call
        return [Said("content", text)] if text else []

    def _call(self) -> list[Said]:
        inside, tag, rest = self._held.partition(CALLED)
        if not tag and not self._ended:
            return []
        call = _read_call(inside)
        if call is None:
            self._held, self._state = rest, self._content
            return [Said("content", CALL + inside + tag)]
        self._held, self._state = rest, self._after_call
        self.calls += 1
        return [call]

    def _after_call(self) -> list[Said]:
        """Keep white space only where words follow it."""
        if self._held.strip():
            self._state = self._content
        elif self._ended:
            self._held = ""
        return []

    def _until(self, tag: str) -> tuple[str, bool]:
        """Take what stands before a tag, without the white space before it, and the tag where it is there."""
        before, found, rest = self._held.partition(tag)
        if found:
            self._held = rest
            return before.rstrip(), True
        if self._ended:
            self._held = ""
            return before, False
        overlap = next((n for n in range(min(len(tag) - 1, len(before)), 0, -1) if before.endswith(tag[:n])), 0)
        sure = before[: len(before) - overlap].rstrip()
        self._held = before[len(sure) :]
        return sure, False


def opens_thought(template: Template, messages: tuple[Message, ...]) -> bool:
    """Return whether the template itself begins the assistant's turn within a thought."""
    text = "".join(piece.text for piece in template.pieces(messages, generate=True))
    return text.rstrip().endswith(THINK)


def _read_call(text: str) -> Said | None:
    """Return the call that a text writes; None where its arguments are no object, and no JSON of one: a server does not
    take such a call back."""
    try:
        found: Any = orjson.loads(text.strip().encode("utf-8", "replace"))
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get("arguments", found.get("parameters", {}))
        read = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(read, dict):
            return None
        written = arguments if isinstance(arguments, str) else orjson.dumps(read).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter for what is nested deeper than 254 levels
        return None
    return Said("call", written, found["name"])
