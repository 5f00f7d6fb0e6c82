"""The two kinds of model that are asked: one behind an OpenAI API, and one of a folder."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from llmx.compare.config import AskOptions, ModelOptions, api_key
from llmx.compare.openai import Api
from llmx.compare.questions import Question
from llmx.compare.reply import Asker, Reply
from llmx.errors import LlmxError, RecipeError
from llmx.generate.messages import messages_of

if TYPE_CHECKING:
    from llmx.generate.engine import Engine
    from llmx.generate.language_model import LanguageModel
    from llmx.generate.request import Request

ADAPTER = "adapter"


@frozen
class RemoteAsker:
    """Asks a model behind an OpenAI API."""

    api: Api
    options: ModelOptions
    ask_options: AskOptions

    def ask(self, question: Question, repeat: int) -> Reply:
        given = self.ask_options
        body: dict[str, Any] = {"max_tokens": given.max_new_tokens, "seed": given.seed + repeat}
        body |= {} if given.temperature is None else {"temperature": given.temperature}
        body |= {} if given.top_p is None else {"top_p": given.top_p}
        body |= self.options.extra
        if self.options.mode == "text":
            return self.api.complete("/completions", {"prompt": question.text, **body})
        return self.api.complete("/chat/completions", {"messages": question.chat(given.system), **body})

    def close(self) -> None:
        pass


def remote(options: ModelOptions, ask_options: AskOptions) -> RemoteAsker:
    """Return what asks the model of a URL, having seen that the server answers.

    Raises:
        LlmxError: it does not.
    """
    where = f"model {options.name}"
    api = Api(str(options.url), options.model, api_key(options, where), ask_options.timeout_s, options.stream)
    try:
        return RemoteAsker(evolve(api, model=api.first_model()), options, ask_options)
    except LlmxError as error:
        raise LlmxError(f"{where}: {error}") from None


class LocalAsker:
    """Asks a model of a folder by an engine with a thread of its own."""

    def __init__(self, loaded: LanguageModel, options: ModelOptions, ask_options: AskOptions, at_once: int) -> None:
        self.options, self.ask_options = options, ask_options
        self.loaded: LanguageModel | None = loaded
        # prompts are computed anew for each answer: what a repeat costs is what the first did
        self.engine: Engine | None = loaded.new_engine(slots=at_once, most_waiting=at_once, prefix_bytes=0)
        self.engine.start()

    def request(self, question: Question, repeat: int) -> Request:
        """Return what the engine is asked.

        Raises:
            RecipeError: the question fills the context, or is a chat and the model was trained on none.
        """
        from llmx.generate.prompts import ChatPrompt

        assert self.loaded is not None
        given = self.ask_options
        prompt: str | ChatPrompt = question.text
        if self.chats:
            prompt = ChatPrompt(messages_of(question.chat(given.system)))
        elif len(question.turns) > 1:
            raise RecipeError("the question is a chat and the model continues texts: ask it a question or a prompt")
        adapter: dict[str, Any] = {"model": ADAPTER} if self.options.adapter else {}
        return self.loaded.request(prompt, max_new_tokens=given.max_new_tokens, seed=given.seed + repeat, **adapter)

    @property
    def chats(self) -> bool:
        """Whether questions are asked as a user's messages."""
        assert self.loaded is not None
        return self.options.mode == "chat" or (self.options.mode == "auto" and self.loaded.template is not None)

    def ask(self, question: Question, repeat: int) -> Reply:
        assert self.engine is not None
        try:
            answer = self.engine.submit(self.request(question, repeat)).wait()
        except LlmxError as error:
            return Reply(error=str(error))
        first = None if answer.first_s is None else answer.first_s - answer.submitted_s
        total = (answer.finished_s or answer.submitted_s) - answer.submitted_s
        return Reply(answer.text, total, first, len(answer.tokens), str(answer.finish_reason))

    def close(self) -> None:
        """End what goes on, and free the model's memory before the next is read."""
        if self.engine is not None:
            self.engine.close()
        self.engine = self.loaded = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def local(options: ModelOptions, ask_options: AskOptions, at_once: int) -> LocalAsker:
    """Load the model of a folder and return what asks it.

    Raises:
        LlmxError: the folder cannot be loaded.
    """
    from llmx.api import load

    sampler, overrides = chain_of(options, ask_options)
    others: dict[str, Any] = {"weights": options.weights or "stored"}
    if options.adapter is not None:
        others["adapters"] = {ADAPTER: options.adapter}
    try:
        loaded = load(str(options.path), sampler=sampler, overrides=overrides, device=options.device, **others)
        if options.mode == "chat" and loaded.template is None:
            raise RecipeError('mode = "chat": it was trained on plain text and has no template: leave mode out')
        return LocalAsker(loaded, options, ask_options, at_once)
    except LlmxError as error:
        raise type(error)(*(f"model {options.name}: {line}" for line in str(error).splitlines())) from error


def chain_of(options: ModelOptions, ask_options: AskOptions) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the samplers by names, and their options: the model's own, else as all are asked."""
    temperature, top_p = ask_options.temperature, ask_options.top_p
    if options.sampler or temperature is None:
        return options.sampler, options.overrides
    if temperature == 0:
        return ["greedy"], options.overrides
    found: dict[str, Any] = {"sampler.temperature.temperature": temperature}
    if top_p is None:
        return ["temperature"], found | options.overrides
    return ["temperature", "top-p"], found | {"sampler.top-p.p": top_p} | options.overrides


def asker_of(options: ModelOptions, ask_options: AskOptions, at_once: int) -> Asker:
    """Return what asks a model; one of a folder is in memory from here on until it is closed."""
    return local(options, ask_options, at_once) if options.path is not None else remote(options, ask_options)
