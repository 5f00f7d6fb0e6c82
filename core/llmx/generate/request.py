"""What an engine is asked for, and what it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from llmx.errors import LlmxError
from llmx.protocols import Sampler

if TYPE_CHECKING:
    from llmx.generate.engine import Engine

FinishReason = Literal["stop", "length", "cancelled", "error"]


class BusyError(LlmxError):
    """As many requests wait as may; ask again later."""


@frozen
class Request:
    """A prompt and how it is to be continued.

    Attributes:
        ids: the prompt, as the model sees it.
        chain: what turns logits into the next token's; requests with one and the same chain are drawn together.
        max_new_tokens: most tokens to add; None goes on to the end of the context.
        stop_ids: tokens that end the answer, and count as its last.
        stop: strings that end the answer; they are not part of its text.
        seed: seed of the draws.
        logprobs: how many of the likeliest tokens are told besides each that was drawn; None tells none of either.
        model: which of the engine's models answers; None is its first.
    """

    ids: Sequence[int]
    chain: Sequence[Sampler]
    max_new_tokens: int | None = None
    stop_ids: frozenset[int] = field(default=frozenset(), converter=frozenset)
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None
    model: str | None = None


@frozen
class Token:
    """A token of an answer.

    Attributes:
        text: what became certain with it; may be empty.
        logprob: its log-probability by the model, before the chain, in nats; None where none was asked for.
        top: the likeliest tokens with theirs, best first.
        spelled: characters that the answer's tokens spell up to this one, with those held back for a stop string; a
            token that completes no character has as many as the one before it.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    spelled: int = 0


class Answer:
    """The answer to a request while it comes: iterate over it for its tokens; one that ends by an error raises an
    LlmxError, from what went wrong where that is none.

    Where no thread drives the engine, iterating does.

    Attributes:
        tokens: those so far.
        finish_reason: "stop" at a stop token or string, "length" at the budget or the end of the context, "cancelled",
            "error"; None while it goes on.
        error: what went wrong.
        cached_tokens: tokens of the prompt whose keys and values were there already.
        submitted_s, first_s, finished_s: when it was asked for, had its first token, ended, on `time.perf_counter`.
    """

    def __init__(self, request: Request, engine: Engine) -> None:
        self.request = request
        self.tokens: list[Token] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.cached_tokens = 0
        self.submitted_s = time.perf_counter()
        self.first_s: float | None = None
        self.finished_s: float | None = None
        self.cancelled = False
        self._engine = engine
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(token.text for token in self.tokens)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.ids)

    def cancel(self) -> None:
        """End the answer at its next token; what it held is free then."""
        self.cancelled = True
        self._engine.wake()

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` from the engine's thread after each token and at the end; it must not block."""
        self._listeners.append(listener)

    def wait(self) -> Answer:
        """Return the answer when it has ended.

        Raises:
            LlmxError: it ended by an error.
        """
        for _ in self:
            pass
        return self

    def __iter__(self) -> Iterator[Token]:
        at = 0
        while at < len(self.tokens) or self.finish_reason is None:
            if at < len(self.tokens):
                at += 1
                yield self.tokens[at - 1]
            elif self._engine.threaded:
                self._wait_beyond(at)
            else:
                self._engine.step()
        if isinstance(self.error, LlmxError):
            raise self.error
        if self.error is not None:  # of a stranger's sampler or model
            raise LlmxError(f"the answer failed: {type(self.error).__name__}: {self.error}") from self.error

    def _wait_beyond(self, tokens: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.finish_reason is not None or len(self.tokens) > tokens)

    # --- for the engine ---------------------------------------------------------------------------------------------

    def put(self, token: Token) -> None:
        if self.first_s is None:
            self.first_s = time.perf_counter()
        self.tokens.append(token)
        self._tell()

    def finish(self, reason: FinishReason, error: Exception | None = None) -> None:
        self.finished_s = time.perf_counter()
        self.error = error
        self.finish_reason = reason
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            listener()
