"""One decode engine under every command: requests join and leave at any step.

Flow: `submit` puts a request into a queue; a step gives slots to those that wait, computes a chunk of prompts that are
not whole yet, and then one token for all other sequences together. Each sequence has a cache of its own and rows of a
model do not depend on each other, so that a request's tokens are the same whatever else is asked meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Tensor

from llmx.errors import LlmxError, PromptTooLongError, RecipeError
from llmx.generate.draw import drawn, through_chain
from llmx.generate.forward import next_logits, prompt_logits
from llmx.generate.prefixes import CHUNK, PrefixStore
from llmx.generate.request import Answer, BusyError, Request
from llmx.generate.sequence import Running
from llmx.nn.cache import KVCache
from llmx.protocols import Model, Tokenizer

PREFIX_BYTES = 2**29
MOST_FAULTS = 8
"""Forward passes that fail one after another until the engine does."""


@frozen
class EngineStats:
    """What an engine does at a moment, and has done so far.

    Attributes:
        active: sequences that have a slot.
        waiting: requests that have none yet.
        reused_tokens: tokens of prompts whose keys and values were there already.
        cache_bytes: bytes of keys and values, those kept for later prompts included.
    """

    active: int
    waiting: int
    slots: int
    requests: int
    prompt_tokens: int
    generated_tokens: int
    reused_tokens: int
    cache_bytes: int


class Engine:
    """Answers requests, by itself in a thread (`start`) or a step at a time (`step`).

    Args:
        models: by the names that requests give; one base and its adapted forms, for example. Only sequences of one
            model share a forward pass.
        tokenizer: makes the text of answers; None leaves it empty.
        slots: most sequences at once.
        most_waiting: most requests that wait for a slot.
        prefix_bytes: most bytes of keys and values that are kept for prompts that begin alike.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        tokenizer: Tokenizer | None,
        *,
        slots: int = 16,
        most_waiting: int = 64,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        self.models = dict(models)
        self.tokenizer = tokenizer
        self.slots, self.most_waiting = slots, most_waiting
        self._waiting: deque[Answer] = deque()
        self._active: list[Running] = []
        self._prefixes = PrefixStore(prefix_bytes)
        self._counts = dict.fromkeys(("requests", "prompt_tokens", "generated_tokens", "reused_tokens"), 0)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._faults = 0  # of the model, since it last computed something
        self.fault: BaseException | None = None

    # --- asking -----------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Answer:
        """Put a request into the queue, from any thread.

        Raises:
            BusyError: as many wait as may, or the engine is closing.
            RecipeError: the prompt is empty or fills the context, no token may be added, or there is no such model.
        """
        name = next(iter(self.models)) if request.model is None else request.model
        if name not in self.models:
            raise RecipeError(f"model: {name!r}: no such model; there are: {', '.join(self.models)}")
        context = self.models[name].context_length
        if not 0 < len(request.ids) < context:
            fault = PromptTooLongError if request.ids else RecipeError
            raise fault(f"prompt: is {len(request.ids)} tokens long; the model takes 1 to {context - 1}")
        if request.max_new_tokens is not None and request.max_new_tokens < 1:
            raise RecipeError(f"max_new_tokens: must be at least 1: {request.max_new_tokens}")
        answer = Answer(request, self)
        with self._changed:
            if self._closing or self.fault is not None:
                raise BusyError("the engine is closing" if self.fault is None else f"the engine failed: {self.fault}")
            if len(self._waiting) + len(self._active) >= self.slots + self.most_waiting:
                raise BusyError(f"{len(self._waiting)} requests wait already: ask again later")
            self._waiting.append(answer)
            self._counts["requests"] += 1
            self._changed.notify_all()
        return answer

    def stats(self) -> EngineStats:
        active = list(self._active)
        held = sum(each.cache.nbytes() for each in active if isinstance(each.cache, KVCache))
        return EngineStats(
            active=len(active),
            waiting=len(self._waiting),
            slots=self.slots,
            cache_bytes=held + self._prefixes.nbytes(),
            **self._counts,
        )

    # --- running ----------------------------------------------------------------------------------------------------

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own drives the engine."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the engine answers: False once its thread failed or was closed."""
        return self.fault is None and not self._closing and (self._thread is None or self._thread.is_alive())

    def start(self) -> None:
        """Answer in a thread until `close`."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._run, name="llmx-engine", daemon=True)
        self._thread.start()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more requests; end those that are there after at most `drain_s` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = time.perf_counter() + drain_s
        while self.threaded and self._busy() and time.perf_counter() < until and self.fault is None:
            time.sleep(0.01)
        with self._changed:  # or one that is just given its slot would be missed
            for answer in (*self._waiting, *(each.answer for each in self._active)):
                answer.cancelled = True
        if self._thread is None:
            self.step()
            return
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def wake(self) -> None:
        """Have the thread look again: something was cancelled."""
        with self._changed:
            self._changed.notify_all()

    def _busy(self) -> bool:
        return bool(self._active or self._waiting)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._busy() or self._closing)
                    if self._closing and not self._busy():
                        return
                self.step()
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """End everything, for the thread does."""
        with self._changed:
            self.fault = error
            left = [*self._waiting, *(each.answer for each in self._active)]
            self._waiting.clear()
            self._active = []
        for answer in [each for each in left if each.finish_reason is None]:
            answer.finish("error", LlmxError(f"the engine failed: {error}"))

    def step(self) -> None:
        """Admit, compute a chunk of prompts, and one token for every sequence that is past its prompt."""
        with torch.inference_mode():
            self._admit()
            ready = [each for each in self._active if not each.prefilling]
            self._prefill()
            for name in dict.fromkeys(each.name for each in ready):
                self._decode([each for each in ready if each.name == name])
            self._leave()

    def _admit(self) -> None:
        """Drop what was cancelled, and give free slots to those that waited longest."""
        with self._changed:
            dropped = [answer for answer in self._waiting if answer.cancelled]
            for answer in dropped:
                self._waiting.remove(answer)
            left = [each for each in self._active if each.answer.cancelled]  # asked once: it may change meanwhile
            self._active = [each for each in self._active if each not in left]
            dropped.extend(each.answer for each in left)
            while self._waiting and len(self._active) < self.slots:
                answer = self._waiting.popleft()
                name = answer.request.model or next(iter(self.models))
                self._active.append(Running(answer, name, self.models[name], self.tokenizer))
        for answer in dropped:
            answer.finish("cancelled")

    def _prefill(self) -> None:
        """Compute about a chunk of prompts, first come first served."""
        left = CHUNK
        for each in [running for running in self._active if running.prefilling]:
            if left <= 0:
                return
            tokens = min(CHUNK - each.computed % CHUNK, len(each.ids) - each.computed)
            logits_V = None
            with self._model_faults_of([each]):
                if each.cache is None:
                    self._take_over(each)
                    tokens = min(CHUNK, len(each.ids) - each.computed)
                logits_V = prompt_logits(each, tokens)
            left -= tokens
            self._counts["prompt_tokens"] += tokens
            if logits_V is not None:
                self._draw([each], logits_V[None])

    def _take_over(self, running: Running) -> None:
        """Begin with the keys and values of the longest equal beginning that is held."""
        others = [other for each in self._active if (other := each.beginning()) is not None]
        common, cache = self._prefixes.best(running.name, running.ids, others)
        if cache is not None:
            running.cache = cache.copied(common, running.capacity)
            running.computed = running.answer.cached_tokens = common
            self._counts["reused_tokens"] += common

    def _decode(self, rows: Sequence[Running]) -> None:
        logits_BV = None
        with self._model_faults_of(rows):
            logits_BV = next_logits(rows)
        if logits_BV is None:
            return
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(tuple(map(id, row.answer.request.chain)), []).append(index)
        for chosen in alike.values():
            self._draw([rows[index] for index in chosen], logits_BV[chosen] if len(alike) > 1 else logits_BV)

    def _draw(self, rows: Sequence[Running], logits_BV: Tensor) -> None:
        """Draw a token a row; what goes wrong with one ends it alone. The rows have one chain; the logits may be
        changed."""
        told_BV = logits_BV
        if len(rows) > 1 or rows[0].answer.request.logprobs is not None:
            told_BV = logits_BV.clone()
        try:
            left_BV = through_chain(logits_BV, [row.drawer for row in rows])
        except Exception as error:
            if len(rows) == 1:
                rows[0].answer.finish("error", error)
                return
            for row, logits_V in zip(rows, told_BV, strict=True):  # a link raised, of which row is not known
                self._draw([row], logits_V[None])
            return
        for row, left_V, told_V in zip(rows, left_BV, told_BV, strict=True):
            with _faults_of([row]):
                token = drawn(left_V, row.drawer.generator)
                self._counts["generated_tokens"] += 1
                row.put(token, told_V)

    def _leave(self) -> None:
        """Free the slots of what has ended, and keep the beginnings of their prompts."""
        for each in self._active:
            if each.answer.finish_reason is not None and (beginning := each.beginning()) is not None:
                self._prefixes.add(beginning)
        with self._changed:
            self._active = [each for each in self._active if each.answer.finish_reason is None]

    @contextmanager
    def _model_faults_of(self, rows: Sequence[Running]) -> Iterator[None]:
        """As `_faults_of`; where the device is lost, or nothing is computed any more, the engine fails."""
        with _faults_of(rows):
            try:
                yield
            except Exception as error:
                self._faults += 1
                if isinstance(error, torch.AcceleratorError) or self._faults >= MOST_FAULTS:
                    raise DeviceLost(error) from error
                raise
        if all(row.answer.finish_reason != "error" for row in rows):
            self._faults = 0


class DeviceLost(BaseException):
    """The model cannot compute any more; no fault of a request, so that nothing that ends a request catches it."""


@contextmanager
def _faults_of(rows: Sequence[Running]) -> Iterator[None]:
    """End the answers of `rows` by what goes wrong in the block: other requests go on."""
    try:
        yield
    except Exception as error:  # a stranger's sampler or model may raise anything; who asked is told
        for row in rows:
            if row.answer.finish_reason is None:
                row.answer.finish("error", error)
