"""A conversation: what was said, what of it still fits the context, and how it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from llmx.errors import DataError, PromptTooLongError, RecipeError
from llmx.protocols import Message
from llmx.speech import Said, Speech, opens_thought
from llmx_chat.settings import Settings

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel
    from llmx.generate.request import Answer, Request

LEAST_ROOM = 4
"""A fourth of the context is kept free for an answer, or as many tokens as it may have if they are fewer."""


class Conversation:
    """A chat with a model; the whole of it is given to the model at each turn.

    Attributes:
        messages: all that was said, without the system's.
        system: what stands before it; empty for nothing.
        dropped: the oldest messages, which are no longer given to the model.
        model: which form of the model answers; None is the first.
        used_tokens: tokens of the last turn, prompt and answer.
    """

    def __init__(self, loaded: LanguageModel, *, system: str = "", model: str | None = None) -> None:
        loaded.chat(())  # a model of plain text is refused now
        assert loaded.template is not None
        self.loaded, self.template = loaded, loaded.template
        self.settings = Settings(loaded.links)
        self.messages: list[Message] = []
        self.system = system
        self.model = model
        self.dropped = 0
        self.used_tokens = 0
        self._engine = loaded.new_engine()
        self._engine.start()
        self._turn = 0

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def forget(self) -> None:
        """Begin anew; the system's message stays."""
        self.messages.clear()
        self.dropped = self.used_tokens = 0

    def replace(self, messages: tuple[Message, ...]) -> None:
        """Go on from another chat."""
        self.forget()
        if messages and messages[0].role == "system":
            self.system, messages = messages[0].content, messages[1:]
        self.messages = list(messages)

    def ask(self, text: str) -> Turn:
        """Say something, and return the answer as it comes.

        Raises:
            LlmxError: it cannot be asked; then nothing was said.
        """
        self.messages.append(Message("user", text))
        try:
            return self._turn_of(self._request())
        except BaseException:  # Ctrl-C too
            self.messages.pop()
            raise

    def retry(self) -> Turn:
        """Ask again what was asked last, in place of its answer.

        Raises:
            RecipeError: nothing was asked yet.
        """
        kept = next((n for n in range(len(self.messages), 0, -1) if self.messages[n - 1].role == "user"), 0)
        if not kept:
            raise RecipeError("/retry: nothing was asked yet")
        request = self._request(self.messages[:kept])
        replaced = self.messages[kept:]
        del self.messages[kept:]
        try:
            return self._turn_of(request, replaced)
        except BaseException:
            self.messages += replaced
            raise

    def _turn_of(self, request: Request, replaced: Sequence[Message] = ()) -> Turn:
        thinking = opens_thought(self.template, self._shown(self.messages))
        return Turn(self, self._engine.submit(request), Speech(thinking=thinking), replaced)

    def _shown(self, messages: list[Message]) -> tuple[Message, ...]:
        before = [Message("system", self.system)] if self.system else []
        return (*before, *messages[self.dropped :])

    def _request(self, messages: list[Message] | None = None) -> Request:
        """Return what the engine is asked; the oldest turns are dropped until there is room for an answer.

        Raises:
            RecipeError: the last message alone is too long.
        """
        said = self.messages if messages is None else messages
        most = self.settings.numbers.get("max_new_tokens", self.loaded.options.max_new_tokens)
        before, self.dropped = self.dropped, min(self.dropped, _last_question(said))
        self._turn += 1
        while True:
            later = next((n for n in range(self.dropped + 1, len(said)) if said[n].role == "user"), None)
            try:
                request = self._fields(said, most)
                if later is None or len(request.ids) + min(most, self.context // LEAST_ROOM) <= self.context:
                    return request
            except RecipeError as error:
                if later is None or isinstance(error, DataError):  # that a template says, however short it is
                    self.dropped = before
                    self._blame_system(said, error)
                    raise
            self.dropped = later

    def _blame_system(self, said: list[Message], error: RecipeError) -> None:
        """See that a question which would fit alone is not called too long.

        Raises:
            RecipeError: what the system says leaves it no room.
        """
        if not self.system or not isinstance(error, PromptTooLongError):
            return
        try:
            self.loaded.request(self.loaded.chat(said[_last_question(said) :]))
        except RecipeError:  # too long in itself, or a template that wants a system's message
            return
        tokens = len(self.loaded.tokenizer.encode(self.system))
        text = f"/system: its {tokens} tokens leave no room in the model's context of {self.context}: shorten it"
        raise RecipeError(text) from error

    @property
    def context(self) -> int:
        """Most tokens of a turn, prompt and answer."""
        return self.loaded.model.context_length

    def _fields(self, said: list[Message], most: int) -> Request:
        return self.loaded.request(
            self.loaded.chat(self._shown(said)),
            max_new_tokens=most,
            seed=self.settings.numbers.get("seed"),
            number=self._turn,
            chain=self.loaded.chain_of(self.settings.links),
            model=self.model,
        )


def _last_question(said: list[Message]) -> int:
    return max((n for n, message in enumerate(said) if message.role == "user"), default=0)


class Turn:
    """An answer while it comes: iterate over it for what is said and thought.

    Attributes:
        answer: what the engine gives.
        said: what of it was shown, by its kind.
        replaced: what it is to take the place of.
    """

    def __init__(
        self, conversation: Conversation, answer: Answer, speech: Speech, replaced: Sequence[Message] = ()
    ) -> None:
        self.answer = answer
        self.said = {"reasoning": "", "content": ""}
        self.replaced = replaced
        self._conversation, self._speech = conversation, speech

    def __iter__(self) -> Iterator[Said]:
        for token in self.answer:
            yield from self._noted(self._speech.feed(token.text))
        yield from self._noted(self._speech.finish())

    def _noted(self, news: list[Said]) -> Iterator[Said]:
        for each in news:
            self.said[each.kind] += each.text
            yield each

    def stop(self) -> None:
        """End the answer where it is."""
        self.answer.cancel()
        for token in self.answer:  # what came meanwhile was not shown, and is not said
            del token

    def keep(self) -> str:
        """Make what was shown a part of the conversation; an answer that did not end by itself is marked as one not to
        train on.

        Where nothing was shown, what was to be replaced stays, or the question is taken back; return what to say of it.
        """
        content, reasoning = self.said["content"], self.said["reasoning"]
        whole = self.answer.finish_reason == "stop"
        talk = self._conversation
        talk.used_tokens = self.answer.prompt_tokens + len(self.answer.tokens)
        if not (content or reasoning):
            if self.replaced:
                talk.messages += self.replaced
                return "the answer before stays"
            talk.messages.pop()
            return "the question is taken back"
        message = Message("assistant", content, reasoning=reasoning)
        talk.messages.append(message if whole else evolve(message, loss=False))
        return ""

    def figures(self) -> str:
        """Return one line of how long it took."""
        answer = self.answer
        tokens = f"{len(answer.tokens)} tokens"
        reused = f", {answer.cached_tokens} of {answer.prompt_tokens} reused" if answer.cached_tokens else ""
        if answer.first_s is None:
            return tokens
        first = f", {answer.first_s - answer.submitted_s:.2f} s to the first"
        return f"{tokens}{self.speed()}{first}{reused}"

    def speed(self) -> str:
        """Return the tokens a second after the first, with a comma before, up to now or to the end; nothing where there
        are too few."""
        answer = self.answer
        if answer.first_s is None or len(answer.tokens) < 2:
            return ""
        until = time.perf_counter() if answer.finished_s is None else answer.finished_s
        return f", {(len(answer.tokens) - 1) / max(until - answer.first_s, 1e-9):.1f} tokens/s"
