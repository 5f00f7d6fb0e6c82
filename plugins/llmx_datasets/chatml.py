"""ChatML: chats written out in a text, each turn between `<|im_start|>role` and `<|im_end|>`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llmx.errors import DataError
from llmx.protocols import ROLES, Document, Message

MARK = "<|im_start|>"
END = "<|im_end|>"
TURN = re.compile(rf"{re.escape(MARK)}([^\n<]*)\n(.*?){re.escape(END)}", re.DOTALL)
BETWEEN = re.compile(r"(?:<\|endoftext\|>|\s)*")


def chat_of(text: str, where: str) -> Document:
    """Return a text of turns as one chat.

    Raises:
        DataError: it holds other than turns.
    """
    messages, at = [], 0
    while (at := _skip(text, at)) < len(text):
        message, at = _turn(text, at, where)
        messages.append(message)
    return Document("", where, tuple(messages))


def chats(lines: Iterable[tuple[int, str]], name: str, most: int) -> Iterator[Document]:
    """Yield the chats of a text: a blank line or `<|endoftext|>` between turns, or a system turn, begins the next.

    Args:
        lines: number and text of each line, with its line feed.
        most: characters of the longest chat.

    Raises:
        DataError: there is text between turns, a turn does not end, or a chat is longer than `most`.
    """
    held: list[str] = []
    start, inside, size = 1, False, 0
    for number, line in lines:
        if not inside and held and (_parts(line) or line.startswith(f"{MARK}system")):
            yield chat_of("".join(held), f"{name}:{start}")
            held, size = [], 0
        if not held:
            start = number
        if held or not _parts(line):
            held.append(line)
            size += len(line)
        inside = _inside(line, inside)
        if size > most:
            raise DataError(
                f"{name}:{start}: a chat of more than {most:,} characters; add the {END} that it lacks, or raise "
                "data.part_bytes"
            )
    if held:
        yield chat_of("".join(held), f"{name}:{start}")


def _parts(line: str) -> bool:
    return not line.strip() or line.strip() == "<|endoftext|>"


def _inside(line: str, inside: bool) -> bool:
    """Return whether a turn is open after a line."""
    opens, closes = line.rfind(MARK), line.rfind(END)
    return inside if opens < 0 and closes < 0 else opens > closes


def _skip(text: str, at: int) -> int:
    found = BETWEEN.match(text, at)
    return found.end() if found else at


def _turn(text: str, at: int, where: str) -> tuple[Message, int]:
    found = TURN.match(text, at)
    if found is None:
        begins = text[at : at + 40].partition("\n")[0]
        raise DataError(
            f"{where}: ChatML with {begins!r} where a whole turn must stand, {MARK}role … {END}; mend it, or set "
            'data.format = "text"'
        )
    role = ROLES.get(found[1].strip())
    if role is None:
        raise DataError(f"{where}: ChatML with the role {found[1]!r}, which none knows; use system, user or assistant")
    if MARK in found[2]:
        raise DataError(f"{where}: ChatML with a turn of {role} that does not end before the next; mend it")
    return Message(role, found[2]), found.end()
