"""Tools in ChatML as Hermes began and Qwen goes on: schemas in the system turn, calls and answers between tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmx.protocols import Message, Piece
from llmx_templates.turns import arguments_of, as_json, function_of, mark, said

START, END = "<|im_start|>", "<|im_end|>"
CLOSE = END + "\n"
OFFER = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
HOW = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


def opening(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """Return the system turn that a chat begins with, if it has one or tools."""
    system = messages[0] if messages[0].role == "system" else None
    if not tools:
        return [] if system is None else turn(0, "system", system.content)
    pieces = [mark(f"{START}system\n", 0 if system else None)]
    if system is not None:
        pieces += [said(system.content, 0), mark("\n\n")]
    pieces.append(mark(OFFER))
    for tool in tools:
        pieces += [mark("\n"), Piece(as_json(tool), markup=False)]
    return [*pieces, mark(HOW), mark(CLOSE)]


def turn(number: int, role: str, content: str) -> list[Piece]:
    """Return a turn in ChatML."""
    return [
        mark(f"{START}{role}\n", number),
        said(content, number),
        said(END, number, markup=True),
        mark("\n", number),
    ]


def calls(number: int, message: Message, content: str) -> list[Piece]:
    """Return what an assistant calls, after its content."""
    pieces = []
    for place, call in enumerate(map(function_of, message.tool_calls)):
        pieces += [
            said("\n" * bool(place or content) + '<tool_call>\n{"name": "', number, markup=True),
            said(str(call.get("name", "")), number),
            said('", "arguments": ', number, markup=True),
            said(arguments_of(call), number),
            said("}\n</tool_call>", number, markup=True),
        ]
    return pieces


def answer(number: int, messages: Sequence[Message]) -> list[Piece]:
    """Return a tool's answer; neighbours share a turn of the user."""
    first = number == 0 or messages[number - 1].role != "tool"
    last = number + 1 == len(messages) or messages[number + 1].role != "tool"
    return [
        mark(f"{START}user" * first + "\n<tool_response>\n", number),
        said(messages[number].content, number),
        mark("\n</tool_response>", number),
        *([mark(CLOSE, number)] if last else []),
    ]
