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
from llmx_serve.faults import ApiError, busy, unavailable, wrong
from llmx_serve.sampling import Link, Sampling

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel
    from llmx.generate.prompts import ChatPrompt
    from llmx.generate.request import Answer, Request, Token
    from llmx.protocols import Sampler
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
        ApiError: a prompt is empty or too long, a sampler refuses what it is given, or the engine never has as many.
    """
    engine, asked = served.base.engine, sampling.number * len(prompts)
    if asked > (most := engine.slots + engine.most_waiting):
        raise wrong("n", f"{asked} answers are more than the {most} that may be asked for", "value_out_of_range")
    firsts = [prompted(served, each) for each in prompts]  # tokenised once for all of their answers
    common: dict[str, Any] = {
        "chain": _chain(served, sampling),
        "stop": sampling.stop,
        "logprobs": sampling.logprobs,
        "model": served.form,
    }
    found: list[Request] = []
    for first in firsts:
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
    return found


def prompted(served: Served, prompt: str | ChatPrompt | list[int]) -> Request:
    """Return a request for a prompt with the model's defaults.

    Raises:
        ApiError: it does not fit.
    """
    if isinstance(prompt, list):
        return evolve(served.blank, ids=prompt)
    try:
        return served.base.model.request(prompt)
    except RecipeError as error:
        raise _misfit(error, "prompt" if isinstance(prompt, str) else "messages") from error


def _misfit(error: RecipeError, param: str) -> ApiError:
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else "invalid_value"
    return ApiError(400, str(error), param, code)


def _chain(served: Served, sampling: Sampling) -> tuple[Sampler, ...]:
    model = served.base.model
    law = model.chain if sampling.law is None else _links(model, sampling.law)
    forms = [link for param, links in sampling.forms.items() for link in _links(model, links, param)]
    return (*forms, *_links(model, sampling.links), *law)


def _links(model: LanguageModel, links: Sequence[Link], param: str | None = None) -> tuple[Sampler, ...]:
    """Return samplers; where they come of one field, `param`, a refusal is told as that field's."""
    try:
        return model.chain_of(links)
    except MissingPackageError as error:  # of the samplers that requests bring, only that of a form needs one
        text = f"{param}: the server needs the package {error.package!r}: pip install 'llmx[xgrammar]'"
        raise ApiError(400, text, param, "not_installed") from error
    except (PluginError, RecipeError) as error:
        text = str(error).partition("\n")[0]
        code = "not_installed" if isinstance(error, PluginError) else "invalid_value"
        if param is not None:  # in the place of the sampler's name
            text = f"{param}: {text.partition(': ')[2] or text}"
        raise ApiError(400, text, param, code) from error


def submit(served: Served, requests: Sequence[Request]) -> list[Answer]:
    """Ask the engine, for all or for none.

    Raises:
        ApiError: it is busy, or does not answer any more, or a prompt of tokens does not fit.
    """
    engine, answers = served.base.engine, []
    try:
        for request in requests:
            answers.append(engine.submit(request))  # noqa: PERF401  # those before a refusal must be known
    except LlmxError as error:
        for answer in answers:
            answer.cancel()
        if isinstance(error, RecipeError):  # texts and chats have been looked at
            raise _misfit(error, "prompt") from error
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
