"""One answer of one model to one question, as it is measured and written down."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from attrs import asdict, fields, frozen

from llmx.compare.questions import Question


@frozen
class Reply:
    """What a model answered.

    Attributes:
        total_s: from the question to the end of the answer.
        first_s: to its first text or thought; None where it came in one piece.
        tokens: of the answer; None where a server does not say.
        error: why there is no answer; None where there is one.
        tries: how often it was asked until it answered; the times are of the last try.
    """

    text: str = ""
    total_s: float = 0.0
    first_s: float | None = None
    tokens: int | None = None
    finish_reason: str = ""
    error: str | None = None
    tries: int = 1


@frozen
class Row:
    """A reply with what it belongs to: a line of `answers.jsonl`.

    Attributes:
        key: what was asked of which model in which way, hashed; equal keys need not be asked again.
        question: the id that the question had when it was asked.
        began_s: when it was asked, in seconds since 1970.
    """

    key: str
    model: str
    question: str
    repeat: int
    began_s: float
    reply: Reply

    @property
    def rating_key(self) -> str:
        """What ratings of this answer are kept under: another text needs another."""
        return digest(self.key, self.reply.text)

    def to_json(self) -> str:
        flat = {**asdict(self, filter=lambda each, _: each.name != "reply"), **asdict(self.reply)}
        return json.dumps(flat, ensure_ascii=False)


def row_of(line: str) -> Row | None:
    """Return the row of a line, or None where it is none of ours."""
    try:
        values = json.loads(line)
        reply = {each.name: values[each.name] for each in fields(Reply)}
        rest = {each.name: values[each.name] for each in fields(Row) if each.name != "reply"}
    except (ValueError, KeyError, TypeError):
        return None
    return Row(**rest, reply=Reply(**reply))


def digest(*parts: Any) -> str:
    """Return a short hash of JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Asker(Protocol):
    """A model that can be asked from several threads."""

    def ask(self, question: Question, repeat: int) -> Reply:
        """Answer, or say in `error` why not."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
