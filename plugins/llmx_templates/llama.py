"""Llama 3's headers: every turn between its role and `<|eot_id|>`, its ends stripped of white space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.protocols import Message, Piece
from llmx_templates.turns import HERE, arguments_of, as_json, check, function_of, mark, said, save

if TYPE_CHECKING:
    from llmx import NoOptions
    from llmx.protocols import Tokenizer

BEGIN, OPEN, CLOSE, END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"
OFFER = (
    "You have access to the following functions. To call a function, please respond with JSON for a function call. "
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. '
    "Do not use variables.\n\n"
)
"""How Llama 3.1 offers tools; Llama 3 itself was not trained with any."""


class LlamaTemplate:
    """Llama 3's template, with tools as Llama 3.1 has them and without its dates."""

    specials = (BEGIN, OPEN, CLOSE.strip(), END)
    stop = (END,)

    def __init__(self, options: NoOptions, tokenizer: Tokenizer | None) -> None:
        """Nothing can be chosen, and the tokenizer changes nothing."""

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return the chat in order; see `llmx.protocols.Template`."""
        check(messages)
        pieces = [mark(BEGIN), *_offer(messages, tools)]
        for number, message in enumerate(messages):
            if not (tools and number == 0 and message.role == "system"):
                pieces += _turn(number, message)
        return [*pieces, mark(f"{OPEN}assistant{CLOSE}")] if generate else pieces

    def save(self, folder: Path) -> None:
        """Write chat_template.jinja."""
        save(folder, (HERE / "llama.jinja").read_text(encoding="utf-8"))


def _offer(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    if not tools:
        return []
    pieces = [mark(f"{OPEN}system{CLOSE}{OFFER}")]
    for tool in tools:
        pieces += [Piece(as_json(tool, indent=4), markup=False), mark("\n\n")]
    if messages[0].role == "system":
        pieces.append(said(messages[0].content.strip(), 0))
    return [*pieces, mark(END)]


def _turn(number: int, message: Message) -> list[Piece]:
    pieces = [mark(f"{OPEN}{'ipython' if message.role == 'tool' else message.role}{CLOSE}", number)]
    if message.role == "assistant" and message.reasoning:
        pieces += [
            said("<think>\n", number, markup=True),
            said(message.reasoning.strip(), number),
            said("\n</think>\n\n", number, markup=True),
        ]
    content = message.content.strip()
    pieces.append(said(content, number))
    for place, call in enumerate(map(function_of, message.tool_calls)):
        pieces += [
            said("\n" * bool(place or content) + '{"name": "', number, markup=True),
            said(str(call.get("name", "")), number),
            said('", "parameters": ', number, markup=True),
            said(arguments_of(call), number),
            said("}", number, markup=True),
        ]
    return [*pieces, said(END, number, markup=True)]
