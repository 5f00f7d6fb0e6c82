"""A request that has a slot: its cache, its draws, its text."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from llmx.generate.draw import Drawer, log_probabilities
from llmx.generate.prefixes import Beginning, beginning_of
from llmx.generate.request import Answer, Token
from llmx.generate.text import TextStream
from llmx.protocols import Cache, Model, Tokenizer


class Running:
    """A sequence that is being computed.

    Attributes:
        computed: tokens of the prompt that are in the cache.
        budget: most tokens that may still be added.
    """

    def __init__(self, answer: Answer, name: str, model: Model, tokenizer: Tokenizer | None) -> None:
        request = answer.request
        room = model.context_length - len(request.ids)
        self.answer, self.name, self.model = answer, name, model
        self.ids = list(request.ids)
        self.budget = room if request.max_new_tokens is None else min(request.max_new_tokens, room)
        self.capacity = len(request.ids) + self.budget
        self.cache: Cache | None = None
        self.computed = 0
        self.last = -1
        self._text = None if tokenizer is None else TextStream(tokenizer, request.stop)

    @cached_property
    def drawer(self) -> Drawer:
        """Made at the first draw: what a stranger's chain raises then ends this answer alone."""
        request = self.answer.request
        return Drawer(request.chain, request.ids, request.seed)

    @property
    def prefilling(self) -> bool:
        return self.computed < len(self.ids)

    def beginning(self) -> Beginning | None:
        """Return what other prompts may take over of this one."""
        return None if self.cache is None else beginning_of(self.name, self.ids, self.computed, self.cache)

    def put(self, token: int, logits_V: Tensor) -> None:
        """Take the next token, and end the answer where it ends."""
        request = self.answer.request
        self.last = token
        self.budget -= 1
        logprob, top = (None, ()) if request.logprobs is None else log_probabilities(logits_V, token, request.logprobs)
        ended = token in request.stop_ids
        text = "" if ended or self._text is None else self._text.feed(token)
        stopped = ended or (self._text is not None and self._text.stopped)
        if self._text is not None and (stopped or self.budget == 0):
            text += self._text.finish()
            stopped = stopped or self._text.stopped
        if not stopped and self.budget > 0:
            self.drawer.accept(token)
        self.answer.put(Token(token, text, logprob, top, 0 if self._text is None else self._text.spelled))
        if stopped or self.budget == 0:
            self.answer.finish("stop" if stopped else "length")
