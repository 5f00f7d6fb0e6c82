"""A judge model that scores answers from 1 to 5; one that answers otherwise has given no score."""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import asdict, evolve, fields, frozen

from llmx.compare.config import JudgeOptions, api_key
from llmx.compare.openai import Api
from llmx.compare.questions import Question
from llmx.compare.reply import digest
from llmx.compare.rules import spoken
from llmx.errors import LlmxError

LAST = re.compile(r"(?:\*\*)?score(?:\*\*)?\s*:\s*(?:\*\*)?\s*([1-5])(?:\*\*)?", re.IGNORECASE)
ALONE = re.compile(r"[1-5]")
PLACE = re.compile(r"\{(question|answer|reference)\}")


@frozen
class Judgement:
    """What the judge said of an answer: a line of `judgements.jsonl`.

    Attributes:
        key: the question, the answer and the judge, hashed; equal ones need not be judged again.
        score: 1 to 5; None where what it said is no score.
        said: its words.
        error: why it said nothing.
    """

    key: str
    score: int | None
    said: str
    error: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def judgement_of(line: str) -> Judgement | None:
    """Return the judgement of a line, or None where it is none of ours."""
    try:
        values = json.loads(line)
        return Judgement(**{each.name: values[each.name] for each in fields(Judgement)})
    except (ValueError, KeyError, TypeError):
        return None


def score_of(said: str) -> int | None:
    """Return the score that a judge's words end with: a line "Score: N" at their end, or nothing but N."""
    lines = [line.strip() for line in spoken(said).splitlines() if line.strip()]
    if not lines:
        return None
    found = LAST.fullmatch(lines[-1])
    if found:
        return int(found[1])
    return int(lines[0]) if len(lines) == 1 and ALONE.fullmatch(lines[0]) else None


def filled(prompt: str, question: Question, answer: str) -> str:
    """Return the judge's prompt; what is put in is not looked through for further places."""
    asked = question.text
    if len(question.turns) > 1:
        asked = "\n".join(f"{each['role']}: {each['content']}" for each in question.turns)
    texts = {"question": asked, "answer": spoken(answer), "reference": question.reference}
    return PLACE.sub(lambda place: texts[place[1]], prompt)


@frozen
class Judge:
    """A judge that can be asked from several threads."""

    api: Api
    options: JudgeOptions

    def key(self, question: Question, answer: str) -> str:
        """Return the key of a judgement."""
        values: dict[str, Any] = asdict(self.options, filter=lambda each, _: each.name in ("url", "prompt", "extra"))
        return digest(values, self.api.model, filled(self.options.prompt, question, answer))

    def judge(self, question: Question, answer: str) -> Judgement:
        """Ask for a score."""
        content = filled(self.options.prompt, question, answer)
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": self.options.max_new_tokens}
        reply = self.api.complete("/chat/completions", {**body, "temperature": 0, "seed": 0, **self.options.extra})
        score = score_of(reply.text) if reply.error is None else None
        return Judgement(self.key(question, answer), score, reply.text, reply.error)


def judge_of(options: JudgeOptions) -> Judge:
    """Return the judge, having seen that its server answers.

    Raises:
        LlmxError: it does not.
    """
    api = Api(options.url, options.model, api_key(options, "judge"), options.timeout_s, stream=False)
    try:
        return Judge(evolve(api, model=api.first_model()), options)
    except LlmxError as error:
        raise LlmxError(f"judge: {error}") from None


def judge_offline(options: JudgeOptions) -> Judge:
    """Return the judge without asking it anything: for the keys of what it said before."""
    return Judge(Api(options.url, options.model, "", options.timeout_s, stream=False), options)
