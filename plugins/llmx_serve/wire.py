"""What chats and completions have in common on their way back: chunks, whole answers, usage."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from llmx_serve.asking import News
from llmx_serve.faults import wrong
from llmx_serve.fields import Fields
from llmx_serve.logprobs import Telling
from llmx_serve.models import Served
from llmx_serve.sampling import Sampling

if TYPE_CHECKING:
    from llmx.generate.prompts import ChatPrompt
    from llmx.generate.request import Answer, Token


def streaming(fields: Fields) -> tuple[bool, bool]:
    """Return whether the answer is to be streamed, and whether its usage is to be told then."""
    stream, options = fields.flag("stream"), fields.object("stream_options")
    if options is not None and not stream:
        raise wrong("stream_options", "is for streams only: set stream to true", "invalid_value")
    return stream, options is not None and options.flag("include_usage")


class Writer:
    """Writes the answers to one request."""

    whole: ClassVar[str]
    part: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, served: Served, sampling: Sampling) -> None:
        self.served, self.sampling = served, sampling
        self._telling: dict[int, Telling] = {}
        self._id, self._created_s = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunks before the first token."""
        return []

    def deltas(self, news: News, answer: Answer) -> list[dict[str, Any]]:
        """Return the chunks of news."""
        raise NotImplementedError

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return an answer that has ended."""
        raise NotImplementedError

    def free(self, news: News, answer: Answer) -> list[tuple[int, Token]]:
        """Return the tokens whose log-probabilities are to be told now, with the characters they begin at."""
        if self.sampling.logprobs is None:
            return []
        telling = self._telling.setdefault(news.index, Telling(answer.request.stop_ids))
        return telling.feed(news.tokens, ended=news.ended)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created_s, "model": self.served.name}

    def chunk(self, index: int, more: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return a chunk of one choice."""
        choice = {"index": index, **more, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head(self.part), "choices": [choice]}

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return OpenAI's `usage`; a prompt counts once for all of its answers."""
        number = self.sampling.number
        prompt = sum(answer.prompt_tokens for answer in answers[::number])
        new = sum(len(answer.tokens) for answer in answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in answers[::number])},
        }

    def last(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the chunk that tells the usage."""
        return {**self._head(self.part), "choices": [], "usage": self.usage(answers)}

    def completed(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [self.choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head(self.whole), "choices": choices, "usage": self.usage(answers)}


@frozen
class Job:
    """A body that was read: what to ask, and how to tell the answers.

    Attributes:
        with_usage: a stream ends by its usage.
    """

    served: Served
    prompts: Sequence[str | ChatPrompt | list[int]]
    sampling: Sampling
    writer: Writer
    stream: bool
    with_usage: bool
