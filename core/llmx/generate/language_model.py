"""A model with its tokenizer and its sampler chain: text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from attrs import frozen

from llmx.data.batches import stream_seed
from llmx.data.encode import Encoder
from llmx.errors import RecipeError
from llmx.generate.decode import Generation, check_length, decode_tokens, prompt_ids, stream_text
from llmx.generate.prompts import ChatPrompt
from llmx.protocols import Message, Model, Sampler, Template, Tokenizer
from llmx.sections import GenerateOptions


@frozen
class LanguageModel:
    """A model with the tokenizer and the sampler chain it was made with.

    Attributes:
        model: `model(ids_BT)` returns `logits_BTV`.
        tokenizer: `encode`, `decode`.
        options: defaults of `generate`.
        template: how its chats were written; None for a model that was trained on plain text.
    """

    model: Model
    tokenizer: Tokenizer
    chain: Sequence[Sampler]
    options: GenerateOptions
    template: Template | None = None

    @overload
    def generate(
        self, prompt: str | ChatPrompt, *, max_new_tokens: int | None = None, seed: int | None = None
    ) -> str: ...

    @overload
    def generate(
        self, prompt: list[str], *, max_new_tokens: int | None = None, seed: int | None = None
    ) -> list[str]: ...

    def generate(
        self, prompt: str | ChatPrompt | list[str], *, max_new_tokens: int | None = None, seed: int | None = None
    ) -> str | list[str]:
        """Return the text that continues a prompt, without the prompt; a list of texts for a list of prompts.

        Raises:
            RecipeError: a prompt is empty or fills the context.
        """
        if not isinstance(prompt, list):
            return self.complete(prompt, max_new_tokens=max_new_tokens, seed=seed).text
        return [self._complete(each, max_new_tokens, seed, number).text for number, each in enumerate(prompt)]

    def question(self, text: str) -> ChatPrompt:
        """Return a user's message, to be answered by the template that trained the model.

        Raises:
            RecipeError: the model was trained on no chats.
        """
        if self.template is None:
            raise RecipeError("--chat: the model was trained on plain text and has no template: leave --chat out")
        return ChatPrompt((Message("user", text),))

    def stream(
        self, prompt: str | ChatPrompt, *, max_new_tokens: int | None = None, seed: int | None = None
    ) -> Iterator[str]:
        """Yield the text that continues a prompt as it comes."""
        return stream_text(self.tokenizer, self._tokens(prompt, max_new_tokens, seed, 0))

    def complete(
        self, prompt: str | ChatPrompt, *, max_new_tokens: int | None = None, seed: int | None = None
    ) -> Generation:
        """Return the continuation of a prompt with its length and why it ended."""
        return self._complete(prompt, max_new_tokens, seed, 0)

    def _complete(
        self, prompt: str | ChatPrompt, max_new_tokens: int | None, seed: int | None, number: int
    ) -> Generation:
        ids = list(self._tokens(prompt, max_new_tokens, seed, number))
        text = "".join(stream_text(self.tokenizer, iter(ids)))  # the same as a stream shows, broken bytes too
        ended = bool(ids) and ids[-1] in self._stop_ids(prompt)
        return Generation(str(prompt), text, len(ids), "stop" if ended else "length")

    def _tokens(
        self, prompt: str | ChatPrompt, max_new_tokens: int | None, seed: int | None, number: int
    ) -> Iterator[int]:
        return decode_tokens(
            self.model,
            self._prompt_ids(prompt),
            self.chain,
            max_new_tokens=self.options.max_new_tokens if max_new_tokens is None else max_new_tokens,
            stop_ids=self._stop_ids(prompt),
            seed=stream_seed(self.options.seed if seed is None else seed, "generate", number),
        )

    def _prompt_ids(self, prompt: str | ChatPrompt) -> list[int]:
        if isinstance(prompt, str):
            return prompt_ids(prompt, self.model, self.tokenizer)
        ids = Encoder(self.tokenizer, self.template).prompt(prompt.messages, prompt.tools)
        return check_length(ids, self.model)

    def _stop_ids(self, prompt: str | ChatPrompt) -> set[int]:
        """Return the ids that end a continuation: the end of a text, and of an assistant's turn in a chat."""
        names = () if self.template is None or isinstance(prompt, str) else self.template.stop
        found = {self.tokenizer.eos_id, *map(self.tokenizer.special_id, names)}
        return {each for each in found if each is not None}
