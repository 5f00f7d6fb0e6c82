"""Qwen3's template: thoughts stand in the turns after the last question of the user alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.errors import RecipeError
from llmx.protocols import Message, Piece
from llmx_templates.hermes import END, START, answer, calls, opening, turn
from llmx_templates.turns import HERE, check, mark, said, save

if TYPE_CHECKING:
    from llmx.protocols import Tokenizer
    from llmx_templates import Qwen3Options

OPENER = f"{START}assistant\n"
SILENCE = "<think>\n\n</think>\n\n"
"""A thought of nothing: what is put before an answer that is to come without one."""
ASKED = "enable_thinking is defined and enable_thinking is false"
UNASKED = "not (enable_thinking is defined and enable_thinking is true)"
SPELLED = "        {%- if loop.index0 > ns.last_query_index %}\n"
"""A place in the published template where a turn's thoughts are known and not yet written."""
FORGOTTEN = "        {%- set reasoning_content = '' %}\n"
"""What is put there for a template that leaves thoughts out."""


@frozen
class Reply:
    """An assistant's turn taken apart."""

    thought: str
    content: str

    @classmethod
    def of(cls, message: Message) -> Reply:
        """Take thoughts from where they are kept, or from the tags that the content holds."""
        content = message.content
        if message.reasoning or "</think>" not in content:
            return cls(message.reasoning, content)
        thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        return cls(thought, content.split("</think>")[-1].lstrip("\n"))


class Qwen3Template:
    """The published template, string for string.

    A turn is trained on where it is spelled as it was when it was the last. The turns before the user's last question
    are not, since their thoughts are gone; nor, with thinking off, is one that no question came before, since the
    published template puts the mark of an empty thought before it in the prompt and not in the chat.
    """

    specials = (START, END)
    stop = (END,)

    def __init__(self, options: Qwen3Options, tokenizer: Tokenizer | None) -> None:
        self.thinking = options.thinking

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return the chat in order; see `llmx.protocols.Template`."""
        check(messages)
        pieces = opening(messages, tools)
        queries = [number for number, message in enumerate(messages) if _is_query(message)]
        for number, message in enumerate(messages):
            if message.role == "assistant":
                pieces += self._assistant(number, messages, queries)
            elif message.role == "tool":
                pieces += answer(number, messages)
            elif message.role == "user" or number:
                pieces += turn(number, message.role, message.content)
        if generate:
            pieces.append(mark(OPENER if self.thinking else OPENER + SILENCE))
        return pieces

    def _assistant(self, number: int, messages: Sequence[Message], queries: Sequence[int]) -> list[Piece]:
        reply, shown = self._reply(messages[number]), self._shown(number, messages, queries)
        content = reply.content.lstrip("\n") if shown else reply.content
        spoken = [
            said(content, number),
            *calls(number, messages[number], reply.content),
            said(END, number, markup=True),
        ]
        header = OPENER
        if shown and self.thinking:
            tags = [said("<think>\n", number, markup=True), said("\n</think>\n\n", number, markup=True)]
            spoken[:0] = [tags[0], said(reply.thought.strip("\n"), number), tags[1]]
        elif shown:
            header += SILENCE
        if not self._as_served(number, messages, queries):
            spoken = [Piece(each.text, each.markup, turn=number) for each in spoken]
        return [mark(header, number), *spoken, mark("\n", number)]

    def _reply(self, message: Message) -> Reply:
        reply = Reply.of(message)
        return reply if self.thinking else Reply("", reply.content)

    def _shown(self, number: int, messages: Sequence[Message], queries: Sequence[int]) -> bool:
        """Return whether a turn has a thought, if only an empty one."""
        last_query = queries[-1] if queries else len(messages) - 1
        last = number == len(messages) - 1
        return number > last_query and (last or bool(self._reply(messages[number]).thought))

    def _as_served(self, number: int, messages: Sequence[Message], queries: Sequence[int]) -> bool:
        """Return whether the chat up to this turn is what was written when the turn was the last."""
        asked = bool(queries) and queries[0] < number
        if self._shown(number, messages, queries) != asked or not (asked or self.thinking):
            return False
        before = number - 1
        if before < 0 or messages[before].role != "assistant":
            return True
        return self._shown(before, messages, queries) == (asked and queries[-1] < before)

    def save(self, folder: Path) -> None:
        """Write chat_template.jinja: the published one, or with thinking off one that leaves thoughts out."""
        text = (HERE / "qwen3.jinja").read_text(encoding="utf-8")
        if not self.thinking:
            if text.count(ASKED) != 1 or text.count(SPELLED) != 1:
                raise RecipeError(f"{HERE / 'qwen3.jinja'} was changed: install llmx again")
            text = text.replace(ASKED, UNASKED).replace(SPELLED, FORGOTTEN + SPELLED)
        save(folder, text)


def _is_query(message: Message) -> bool:
    content = message.content
    wrapped = content.startswith("<tool_response>") and content.endswith("</tool_response>")
    return message.role == "user" and not wrapped
