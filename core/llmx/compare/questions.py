"""The questions of a comparison: a JSON object on each line, with what is expected of an answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from llmx.compare.rules import Expect
from llmx.errors import DataError
from llmx.generate.messages import messages_of
from llmx.options import structure

TEXTS = ("question", "prompt", "messages")


@frozen
class Line:
    """A line of the file."""

    question: str = ""
    """What is asked."""
    prompt: str = ""
    """The same by another name."""
    messages: tuple[dict[str, Any], ...] = ()
    """A chat in place of a question, as `llmx generate --prompts` takes it."""
    expect: dict[str, Any] | None = None
    """Rules that an answer is scored by, see `Expect`. None: it is not."""
    answer: str = ""
    """A reference answer, for the judge and for people. Empty: none is known."""
    id: str = ""
    """A name that no other question has. Empty: the number of its line."""
    tags: tuple[str, ...] = ()
    """What it belongs to; the page filters by them."""

    def __attrs_post_init__(self) -> None:
        given = [name for name in TEXTS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"needs one of question, prompt and messages, not {' and '.join(given) or 'none'}")
        if self.messages:
            try:
                messages_of(list(self.messages))
            except DataError as error:
                raise ValueError(str(error)) from None


@frozen
class Question:
    """A question, or a chat whose last message is to be answered.

    Attributes:
        id: its own, else the number of its line.
        occurrence: how many questions without an id of their own have said the same up to here; 0 with one. Answers
            are kept by it, not by the line, which changes with what is written above.
        written: the line as it stood in the file.
    """

    id: str
    turns: tuple[dict[str, Any], ...]
    reference: str = ""
    tags: tuple[str, ...] = ()
    rules: Expect | None = None
    written: dict[str, Any] = field(factory=dict)
    occurrence: int = 0

    @property
    def key(self) -> str | int:
        """What tells it from others with the same turns."""
        return self.occurrence or self.id

    @property
    def text(self) -> str:
        """What is asked, or what was said last."""
        return str(self.turns[-1]["content"])

    def chat(self, system: str) -> list[dict[str, Any]]:
        """Return the messages to be answered; `system` comes first where the question brings no such message."""
        first = [{"role": "system", "content": system}] if system and self.turns[0]["role"] != "system" else []
        return [*first, *self.turns]


def read_questions(path: Path) -> list[Question]:
    """Read and check a file of questions.

    Raises:
        DataError: with a line `file:line: what` for each fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}: convert it, as with iconv -t UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    found: list[Question] = []
    lines: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                question, faults = question_of(line, str(number))
            except RecursionError:
                question, faults = None, ["is nested too deeply"]
            lines += [f"{path}:{number}: {fault}" for fault in faults]
            found += [question] if question else []
    lines += [f"{path}: two questions have the id {name!r}: give each its own" for name in _twice(found)]
    if not found and not lines:
        lines = [f"{path}: holds no questions: write a JSON object with a question on each line"]
    if lines:
        raise DataError(*lines)
    return counted(found)


def question_of(line: str, number: str) -> tuple[Question | None, list[str]]:
    """Return the question of a line, or what is wrong with it."""
    try:
        values = json.loads(line)
        line.encode()
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None, ["holds half of a surrogate pair: write whole characters"]
    except (ValueError, RecursionError) as error:
        return None, [f"is no JSON: {error}"]
    if not isinstance(values, dict):
        return None, ['must be a JSON object, such as {"question": "..."}']
    made, faults = structure(Line, values, "line")
    rules = None
    if made is not None and made.expect is not None:
        rules, faults = structure(Expect, made.expect, "line.expect")
    if made is None or faults:
        return None, [
            f"{fault.path.removeprefix('line').removeprefix('.')}: {fault.message}".lstrip(": ") for fault in faults
        ]
    turns = tuple(map(_turn, made.messages)) or ({"role": "user", "content": made.question or made.prompt},)
    return Question(made.id or number, turns, made.answer, made.tags, rules, _plain(made), 0 if made.id else 1), []


def _turn(given: dict[str, Any]) -> dict[str, Any]:
    """Return a message by the roles that APIs know, its content as text."""
    message = messages_of([given], answered=True)[0]
    return {**given, "role": message.role, "content": message.content}


def counted(questions: Sequence[Question]) -> list[Question]:
    """Return questions of a file with their occurrences."""
    seen: Counter[str] = Counter()
    found = []
    for each in questions:
        if each.occurrence:
            seen[turns := json.dumps(each.turns, sort_keys=True)] += 1
            each = evolve(each, occurrence=seen[turns])
        found.append(each)
    return found


def _plain(line: Line) -> dict[str, Any]:
    """Return the fields that say something."""
    return asdict(line, filter=lambda _, value: bool(value))


def _twice(questions: Sequence[Question]) -> list[str]:
    names = [each.id for each in questions]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
