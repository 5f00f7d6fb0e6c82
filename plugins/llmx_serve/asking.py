"""Requests put to an engine, and their answers awaited on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from llmx import LlmxError, PluginError, RecipeError
from llmx.errors import MissingPackageError, PromptTooLongError
from llmx_serve.faults import ApiError, busy, unavailable
from llmx_serve.sampling import Sampling

if TYPE_CHECKING:
    from llmx.generate.prompts import ChatPrompt
    from llmx.generate.request import Answer, Request, Token
    from llmx_serve.models import Served

SEEDS_APART = 0x1E3779B97F4A7C15
"""Between the seeds of a request's answers: the answers to neighbouring seeds would else be the same."""

BEAT_S = 15.0
"""Seconds of silence after which a stream shows that it lives."""


@frozen
class News:
    """What came of one answer since it was told last."""

    index: int
    tokens: Sequence[Token]
    ended: bool


def requests_of(served: Served, prompts: Sequence[str | ChatPrompt | list[int]], sampling: Sampling) -> list[Request]:
    """Return `sampling.number` requests for each prompt; takes the time that tokenising does.

    Raises:
        ApiError: a prompt is empty or too long, or a sampler refuses what it is given.
    """
    model = served.base.model
    try:
        law = model.chain if sampling.law is None else model.chain_of(sampling.law)
        common: dict[str, Any] = {
            "chain": (*model.chain_of(sampling.links), *law),
            "stop": sampling.stop,
            "logprobs": sampling.logprobs,
            "model": served.form,
        }
        found: list[Request] = []
        for prompt in prompts:
            first = (
                evolve(served.blank, ids=prompt) if isinstance(prompt, list) else model.request(prompt)
            )  # tokenised once for all of its answers
            limit = sampling.max_tokens or first.max_new_tokens
            found += [
                evolve(
                    first,
                    **common,
                    max_new_tokens=limit,
                    seed=(sampling.seed + SEEDS_APART * (len(found) + number)) % 2**63,
                )
                for number in range(sampling.number)
            ]
    except MissingPackageError as error:  # of the samplers that requests bring, only that of a form needs one
        text = f"response_format: the server needs the package {error.package!r}: pip install 'llmx[xgrammar]'"
        raise ApiError(400, text, "response_format", "not_installed") from error
    except PluginError as error:
        raise ApiError(400, str(error).partition("\n")[0], code="not_installed") from error
    except RecipeError as error:
        code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else "invalid_request"
        raise ApiError(400, str(error), code=code) from error
    return found


def _seed(sampling: Sampling, number: int) -> int:
    return (sampling.seed + number * SEEDS_APART) % 2**63


def submit(served: Served, requests: Sequence[Request]) -> list[Answer]:
    """Ask the engine, for all or for none.

    Raises:
        ApiError: it is busy, or does not answer any more, or a prompt does not fit.
    """
    engine, answers = served.base.engine, []
    try:
        for request in requests:
            answers.append(engine.submit(request))  # noqa: PERF401  # those before a refusal must be known
    except LlmxError as error:
        for answer in answers:
            answer.cancel()
        if isinstance(error, RecipeError):
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        if not engine.alive:
            raise unavailable(str(error)) from error
        stats = engine.stats()
        raise busy(str(error), min(60, 1 + stats.waiting // stats.slots)) from error
    return answers


class Asked:
    """The answers to one request; leaving the block ends those that go on.

    Args:
        done: called with each answer when the block is left.
    """

    def __init__(self, answers: Sequence[Answer], done: Callable[[Answer], None]) -> None:
        self.answers = answers
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        for answer in answers:
            answer.add_listener(self._tell)

    def _tell(self) -> None:
        if not self._changed.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._changed.set)

    def cancel(self) -> None:
        for answer in self.answers:
            if answer.finish_reason is None:
                answer.cancel()

    async def __aenter__(self) -> Asked:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.cancel()
        for answer in self.answers:
            self._done(answer)

    async def news(self) -> AsyncIterator[News | None]:
        """Yield what comes, until all have ended; None after a silence.

        Raises:
            ApiError: an answer ended by an error or was cut off.
        """
        at = [0] * len(self.answers)
        open_ = set(range(len(self.answers)))
        while open_:
            self._changed.clear()
            told = False
            for index in sorted(open_):
                answer = self.answers[index]
                reason = answer.finish_reason  # before the tokens: all of them are there once it is told
                tokens = answer.tokens[at[index] :]
                if reason in ("error", "cancelled"):
                    raise _cut_off(answer)
                if tokens or reason is not None:
                    at[index] += len(tokens)
                    told = True
                    if reason is not None:
                        open_.discard(index)
                    yield News(index, tokens, reason is not None)
            if not told:
                try:
                    await asyncio.wait_for(self._changed.wait(), BEAT_S)
                except TimeoutError:
                    yield None


def _cut_off(answer: Answer) -> ApiError:
    error = answer.error
    if isinstance(error, RecipeError):
        return ApiError(400, str(error), code="invalid_request")
    if error is None:
        return unavailable("the answer was cut off: the server ends")
    sys.stderr.write(f"llmx serve: an answer failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}\n")
    return unavailable("the answer failed here; the server's log says why")
