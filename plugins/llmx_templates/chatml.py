"""ChatML: every turn is spelled alike wherever it stands, so that all of them can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.protocols import Message, Piece
from llmx_templates.hermes import END, START, answer, calls, opening, turn
from llmx_templates.turns import HERE, check, mark, said, save

if TYPE_CHECKING:
    from llmx import NoOptions
    from llmx.protocols import Tokenizer


class ChatmlTemplate:
    """Turns between `<|im_start|>` and `<|im_end|>`, without a system turn of its own."""

    specials = (START, END)
    stop = (END,)

    def __init__(self, options: NoOptions, tokenizer: Tokenizer | None) -> None:
        """Nothing can be chosen, and the tokenizer changes nothing."""

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return the chat in order; see `llmx.protocols.Template`."""
        check(messages)
        pieces = opening(messages, tools)
        for number, message in enumerate(messages):
            if message.role == "assistant":
                pieces += _assistant(number, message)
            elif message.role == "tool":
                pieces += answer(number, messages)
            elif message.role == "user" or number:
                pieces += turn(number, message.role, message.content)
        return [*pieces, mark(f"{START}assistant\n")] if generate else pieces

    def save(self, folder: Path) -> None:
        """Write chat_template.jinja."""
        save(folder, (HERE / "chatml.jinja").read_text(encoding="utf-8"))


def _assistant(number: int, message: Message) -> list[Piece]:
    pieces = turn(number, "assistant", message.content)
    if message.tool_calls:
        pieces[2:2] = calls(number, message, message.content)
    if message.reasoning:
        thought = message.reasoning.strip("\n")
        pieces[1:1] = [
            said("<think>\n", number, markup=True),
            said(thought, number),
            said("\n</think>\n\n", number, markup=True),
        ]
    return pieces
