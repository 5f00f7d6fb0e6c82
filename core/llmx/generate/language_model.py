"""A model with its tokenizer and its sampler chain: text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from attrs import Factory, field, frozen

from llmx.data.batches import stream_seed
from llmx.data.encode import Encoder
from llmx.errors import PromptTooLongError, RecipeError
from llmx.generate.chains import Chains, Link, at_temperature
from llmx.generate.engine import Engine
from llmx.generate.prompts import ChatPrompt, as_message, as_prompts, check_length, prompt_ids, require_utf8
from llmx.generate.request import Answer, Request
from llmx.named import BASE
from llmx.protocols import Message, Model, Sampler, Template, Tokenizer
from llmx.sections import GenerateOptions


@frozen
class Generation:
    """What a prompt was continued with.

    Attributes:
        text: the new text, without the prompt.
        tokens: how many tokens it has, an end token included.
        finish_reason: "stop" at an end token, "length" at the token budget or the end of the context.
    """

    prompt: str
    text: str
    tokens: int
    finish_reason: str


@frozen
class LanguageModel:
    """A model with the tokenizer and the sampler chain it was made with.

    Attributes:
        model: `model(ids_BT)` returns `logits_BTV`.
        tokenizer: `encode`, `decode`.
        options: defaults of `generate`.
        template: how its chats were written; None for a model that was trained on plain text.
        adapted: forms of the model with an adapter each, by name; they share its weights.
        links: names and options of the chain, for who changes one of them.
        ends: ids that end a text besides the tokenizer's own, as `transformers.generate` has them of the folder.
    """

    model: Model
    tokenizer: Tokenizer
    chain: Sequence[Sampler]
    options: GenerateOptions
    template: Template | None = None
    adapted: Mapping[str, Model] = field(factory=dict)
    links: Sequence[Link] = ()
    ends: frozenset[int] = frozenset()
    _chains: Chains = field(
        default=Factory(lambda self: Chains(self.tokenizer), takes_self=True), init=False, repr=False, eq=False
    )

    @overload
    def generate(
        self,
        prompt: str | ChatPrompt | Sequence[Message | Mapping[str, Any]],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> str | list[str]:
        """Return the text that continues a prompt, without the prompt, or answers a chat; a list for several texts.

        Args:
            prompt: a text, several texts, or a chat, as a list of turns with role and content too.
            max_new_tokens: most tokens to add. None: as the model's options say.
            temperature: what the logits are divided by, 0 for the best token always. None: as the sampler chain has it.
            stop: texts that end the answer, and are no part of it.
            seed: of the draws. None: as the model's options say.

        Raises:
            RecipeError: a prompt is none, is empty or fills the context, or the chain has no temperature.
        """
        asked = as_prompts(prompt)
        prompts: Sequence[str | ChatPrompt] = asked if isinstance(asked, list) else [asked]
        fields = self._fields(temperature, stop)
        engine = self.new_engine(most_waiting=len(prompts))
        requests = [
            self.request(each, max_new_tokens=max_new_tokens, seed=seed, number=number, **fields)
            for number, each in enumerate(prompts)
        ]
        texts = [answer.wait().text for answer in [engine.submit(each) for each in requests]]
        return texts if isinstance(asked, list) else texts[0]

    def question(self, text: str) -> ChatPrompt:
        """Return a user's message, to be answered by the template that trained the model.

        Raises:
            RecipeError: the model was trained on no chats.
        """
        if self.template is None:
            raise RecipeError("--chat: the model was trained on plain text and has no template: leave --chat out")
        return ChatPrompt((Message("user", text),))

    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> ChatPrompt:
        """Return a chat, to be answered by the template that trained the model.

        Args:
            messages: its turns, or tables with role and content.

        Raises:
            RecipeError: the model was trained on no chats, or a turn lacks something.
        """
        if self.template is None:
            raise RecipeError(
                "chat: the model was trained on plain text and has no template: continue texts with llmx generate"
            )
        return ChatPrompt(tuple(map(as_message, messages)), tuple(tools))

    def stream(
        self,
        prompt: str | ChatPrompt | Sequence[Message | Mapping[str, Any]],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the text that continues a prompt as it comes; see `generate`."""
        fields = self._fields(temperature, stop)
        answer = self._answer(prompt, max_new_tokens=max_new_tokens, seed=seed, **fields)
        return (token.text for token in answer if token.text)

    def complete(
        self,
        prompt: str | ChatPrompt | Sequence[Message | Mapping[str, Any]],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Generation:
        """Return the continuation of a prompt with its length and why it ended; see `generate`."""
        fields = self._fields(temperature, stop)
        answer = self._answer(prompt, max_new_tokens=max_new_tokens, seed=seed, **fields).wait()
        return Generation(str(as_prompts(prompt)), answer.text, len(answer.tokens), str(answer.finish_reason))

    def new_engine(self, **options: Any) -> Engine:
        """Return an engine over the model and its adapted forms; `options` are those of `Engine`.

        It keeps keys and values of prompts, so that it must not outlive a change of the weights.
        """
        return Engine({BASE: self.model, **self.adapted}, self.tokenizer, **options)

    def chain_of(self, links: Sequence[Link]) -> tuple[Sampler, ...]:
        """Return a sampler chain by names and options; equal links are built once, from any thread.

        Raises:
            RecipeError: there is no such sampler, or it has no such option or value.
            PluginError: a sampler's package is not installed.
        """
        return self._chains.of(links)

    def request(
        self,
        prompt: str | ChatPrompt,
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        number: int = 0,
        **others: Any,
    ) -> Request:
        """Return what an engine is to be asked, with the defaults of this model.

        Args:
            number: of the prompt among those of one call: each is drawn with a stream of its own.
            others: further fields of `Request`: a chain of its own, stop strings, log-probabilities.

        Raises:
            RecipeError: the prompt is empty or fills the context, or it is a chat and the model was trained on none.
        """
        given = self.options
        if not isinstance(max_new_tokens, int | None) or isinstance(max_new_tokens, bool):
            raise RecipeError(f"max_new_tokens: must be a whole number: {max_new_tokens!r}")
        return Request(
            **{
                "ids": self._prompt_ids(prompt),
                "chain": self.chain,
                "max_new_tokens": given.max_new_tokens if max_new_tokens is None else max_new_tokens,
                "stop_ids": self.stop_ids(chat=not isinstance(prompt, str)),
                "seed": stream_seed(given.seed if seed is None else seed, "generate", number),
                **others,
            }
        )

    def stop_ids(self, *, chat: bool) -> frozenset[int]:
        """Return the ids that end a continuation: those that end a text, and in a chat an assistant's turn."""
        names = self.template.stop if chat and self.template is not None else ()
        found = {self.tokenizer.eos_id, *map(self.tokenizer.special_id, names)}
        return self.ends | {each for each in found if each is not None}

    def _answer(self, prompt: Any, **fields: Any) -> Answer:
        asked = as_prompts(prompt)
        if isinstance(asked, list):
            raise RecipeError("prompt: are several: give one, or all of them to generate")
        return self.new_engine().submit(self.request(asked, **fields))

    def _fields(self, temperature: float | None, stop: str | Sequence[str] | None) -> dict[str, Any]:
        """Return what a request has of these.

        Raises:
            RecipeError: a text to stop at is empty, or the chain has no temperature.
        """
        found: dict[str, Any] = {"stop": (stop,) if isinstance(stop, str) else tuple(stop or ())}
        if not all(isinstance(each, str) for each in found["stop"]):
            raise RecipeError(f"stop: must be a text, or several: {stop!r}")
        if "" in found["stop"]:
            raise RecipeError("stop: is empty, and stands everywhere: give some text")
        if temperature is not None:
            if not isinstance(temperature, int | float):
                raise RecipeError(f"temperature: must be a number: {temperature!r}")
            found["chain"] = self.chain_of(at_temperature(self.links, temperature))
        return found

    def _prompt_ids(self, prompt: str | ChatPrompt) -> list[int]:
        if isinstance(prompt, str):
            return prompt_ids(prompt, self.model, self.tokenizer)
        if self.template is None:
            raise RecipeError("chat: the model was trained on plain text and has no template: give a text to continue")
        for message in prompt.messages:
            for text in (message.content, message.reasoning):
                require_utf8("prompt" if message.role == "user" else message.role, text)
        encoder = Encoder(self.tokenizer, self.template)
        ids = encoder.prompt(prompt.messages, prompt.tools)
        try:
            return check_length(ids, self.model)
        except PromptTooLongError as error:
            shares = self._shares(prompt)
            if prompt.tools:
                shares.append(f"its tools take {len(ids) - len(encoder.prompt(prompt.messages))}")
            raise PromptTooLongError("; ".join([str(error), *shares])) from None

    def _shares(self, prompt: ChatPrompt) -> list[str]:
        """Return what to say of the tokens that the system's message of a chat takes."""
        system = [message.content for message in prompt.messages if message.role == "system"]
        return (
            [f"its system message takes {sum(len(self.tokenizer.encode(each)) for each in system)}"] if system else []
        )
