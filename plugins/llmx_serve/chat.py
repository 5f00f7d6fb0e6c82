"""`/v1/chat/completions`: from a body to requests, from answers to messages."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, evolve

from llmx.speech import Said, Speech
from llmx_serve.asking import News
from llmx_serve.calls import CallSpeech, Forced, read_forced, told_tools
from llmx_serve.faults import ApiError, wrong
from llmx_serve.fields import Fields
from llmx_serve.limits import Limits
from llmx_serve.logprobs import chat_logprobs
from llmx_serve.messages import read_messages, read_tools
from llmx_serve.models import Models, Served
from llmx_serve.sampling import Sampling, read_sampling
from llmx_serve.schema import kept_to, read_form
from llmx_serve.wire import Job, Writer, streaming

if TYPE_CHECKING:
    from llmx.generate.request import Answer


def read_chat(fields: Fields, models: Models, limits: Limits) -> Job:
    """Read a body.

    Raises:
        ApiError: something is wrong with it, or the model cannot chat, or has no tools.
    """
    served = models.named(fields.string("model"))
    model = served.base.model
    if model.template is None:
        text = f"model {served.name!r} was trained on plain text and has no chat template: use /v1/completions"
        raise ApiError(400, text, "model", "no_chat_template")
    _refuse_others(fields)
    messages, tools = read_messages(fields, limits), told_tools(fields, read_tools(fields, limits), limits)
    if tools and not served.takes_tools:
        raise wrong("tools", f"the template of model {served.name!r} has no tools", "unsupported_value")
    room = served.context_length * limits.chars_per_token
    if sum(len(each.content) + len(each.reasoning) for each in messages) > room:
        raise wrong("messages", f"do not fit the context of {served.context_length} tokens", "context_length_exceeded")
    sampling = read_sampling(fields, limits, served.context_length, served.vocab_size)
    top = fields.integer("top_logprobs", 0, limits.logprobs)
    if top is not None and not fields.flag("logprobs"):
        raise wrong("top_logprobs", "needs logprobs to be true", "invalid_value")
    sampling = evolve(
        sampling,
        logprobs=(top or 0) if fields.flag("logprobs") else None,
        forms={"response_format": read_form(fields, limits, model.template.stop)},
        max_tokens=sampling.max_tokens or limits.chat_tokens(served.context_length),
    )
    if (forced := read_forced(fields, tools, limits)) is not None:
        sampling = evolve(sampling, forms={"tool_choice": kept_to(forced.schema, model.template.stop)})
    stream, with_usage = streaming(fields)
    single = fields.has("parallel_tool_calls") and not fields.flag("parallel_tool_calls")
    writer = ChatWriter(served, sampling, forced, tools=bool(tools), single=single)
    return Job(served, [model.chat(messages, tools)], sampling, writer, stream, with_usage)


def _refuse_others(fields: Fields) -> None:
    """Refuse fields of OpenAI's that ask for another answer than would come.

    Raises:
        ApiError: there is one.
    """
    for name, other in (("functions", "tools"), ("function_call", "tool_choice")):
        if fields.has(name):
            raise wrong(name, f"is not known any more: use {other}", "unsupported_value")
    if any(kind != "text" for kind in fields.array("modalities", 8)):
        raise wrong("modalities", "must be text alone, for the model writes nothing else", "unsupported_value")


KINDS = ("content", "reasoning")


@define
class _Turn:
    """How one choice speaks, and the calls it made so far."""

    speech: Speech | CallSpeech
    calls: int = 0


class ChatWriter(Writer):
    """Chunks and completions of a chat.

    Args:
        forced: the call that every answer is.
        single: only the first call of a tool is told.
    """

    whole, part, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, served: Served, sampling: Sampling, forced: Forced | None, *, tools: bool, single: bool) -> None:
        super().__init__(served, sampling)
        self._forced, self._single = forced, single
        self._named = forced is not None and forced.named is not None
        self._turns = [_Turn(self._speech(tools=tools)) for _ in range(sampling.number)]

    def _speech(self, *, tools: bool) -> Speech | CallSpeech:
        if self._forced is not None:
            return CallSpeech(self._forced.named)
        if any(self.sampling.forms.values()):  # from the first token on: there is no thought, and no call
            return Speech()
        return Speech(thinking=self.served.opens_thought, tools=tools)

    def opening(self) -> list[dict[str, Any]]:
        """Return the first chunks: who speaks."""
        first = {"role": "assistant", "content": ""}
        return [self.chunk(index, {"delta": first}) for index in range(len(self._turns))]

    def deltas(self, news: News, answer: Answer) -> list[dict[str, Any]]:
        """Return the chunks of news."""
        turn = self._turns[news.index]
        called = turn.calls
        said = self._said(news, turn)
        free = self.free(news, answer)
        deltas = []
        for each in said:
            deltas.append(_delta(each, called))
            called += each.kind == "call"
        if free and not deltas:
            deltas = [{"content": ""}]
        chunks = [self.chunk(news.index, {"delta": each}) for each in deltas]
        if free:
            chunks[0]["choices"][0]["logprobs"] = chat_logprobs(free, self.served.base.model.tokenizer)
        if news.ended:
            chunks.append(self.chunk(news.index, {"delta": {}}, self._reason(turn, answer)))
        return chunks

    def _said(self, news: News, turn: _Turn) -> list[Said]:
        found = turn.speech.feed("".join(token.text for token in news.tokens))
        if news.ended:
            found += turn.speech.finish()
        kept = []
        for each in found:
            if each.kind != "call" or not (self._single and turn.calls):
                kept.append(each)
                turn.calls += each.kind == "call"
        return kept

    def _reason(self, turn: _Turn, answer: Answer) -> str:
        if isinstance(turn.speech, CallSpeech) and (self._named or not turn.speech.whole):
            return str(answer.finish_reason)  # of a named one as OpenAI has it: the model was not the one to choose
        return "tool_calls" if turn.calls and answer.finish_reason == "stop" else str(answer.finish_reason)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return an answer as a whole."""
        turn = self._turns[index]
        news = News(index, answer.tokens, ended=True)
        said = self._said(news, turn)
        content, thought = ("".join(each.text for each in said if each.kind == kind) for kind in KINDS)
        calls = [_call(each) for each in _joined(said)]
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
        message["refusal"] = None
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        free, asked = self.free(news, answer), self.sampling.logprobs is not None
        told = chat_logprobs(free, self.served.base.model.tokenizer) if asked else None
        return {"index": index, "message": message, "logprobs": told, "finish_reason": self._reason(turn, answer)}


def _joined(said: Sequence[Said]) -> list[Said]:
    """Return the calls, each with all of its arguments."""
    found: list[Said] = []
    for each in said:
        if each.kind == "call":
            found.append(each)
        elif each.kind == "arguments":
            found[-1] = evolve(found[-1], text=found[-1].text + each.text)
    return found


def _delta(said: Said, called: int) -> dict[str, Any]:
    """Return what is new, after so many calls."""
    if said.kind == "call":
        return {"tool_calls": [{"index": called, **_call(said)}]}
    if said.kind == "arguments":
        return {"tool_calls": [{"index": called - 1, "function": {"arguments": said.text}}]}
    return {"content" if said.kind == "content" else "reasoning_content": said.text}


def _call(said: Said) -> dict[str, Any]:
    function = {"name": said.name, "arguments": said.text}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
