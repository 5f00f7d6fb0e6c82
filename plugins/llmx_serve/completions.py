"""`/v1/completions`: texts, or tokens, and what continues them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from attrs import evolve

from llmx_serve.asking import News
from llmx_serve.faults import wrong
from llmx_serve.fields import Fields, plain
from llmx_serve.limits import Limits
from llmx_serve.logprobs import text_logprobs
from llmx_serve.models import Models, Served
from llmx_serve.sampling import Sampling, read_sampling
from llmx_serve.schema import read_form
from llmx_serve.wire import Job, Writer, streaming

if TYPE_CHECKING:
    from llmx.generate.request import Answer

Prompt = str | list[int]


def read_completion(fields: Fields, models: Models, limits: Limits) -> Job:
    """Read a body.

    Raises:
        ApiError: something is wrong with it.
    """
    served = models.named(fields.string("model"))
    if fields.string("suffix"):
        raise wrong("suffix", "is not supported: the models here read forwards only", "unsupported_value")
    prompts = read_prompts(fields, served, limits)
    sampling = read_sampling(fields, limits, served.context_length, served.vocab_size)
    if sampling.number * len(prompts) > limits.choices:
        asked = f"n={sampling.number} for {len(prompts)} prompts"
        raise wrong("n", f"{asked} is more than {limits.choices} answers", "value_out_of_range")
    echo, logprobs = fields.flag("echo"), fields.integer("logprobs", 0, limits.logprobs)
    if echo and logprobs is not None:
        raise wrong("echo", "tells no log-probabilities of a prompt: leave echo or logprobs out", "unsupported_value")
    sampling = evolve(
        sampling,
        logprobs=logprobs,
        forms={"response_format": read_form(fields, limits, ())},
        max_tokens=sampling.max_tokens or limits.text_tokens(served.base.model.options.max_new_tokens),
    )
    stream, with_usage = streaming(fields)
    decode = served.base.model.tokenizer.decode
    echoed = [(each if isinstance(each, str) else decode(each)) if echo else "" for each in prompts]
    return Job(served, prompts, sampling, TextWriter(served, sampling, echoed), stream, with_usage)


def read_prompts(fields: Fields, served: Served, limits: Limits) -> list[Prompt]:
    """Return `prompt`: a text, a list of texts, the tokens of one, or a list of those.

    Raises:
        ApiError: it is none of these, or too long.
    """
    value = fields.values.get("prompt")
    if isinstance(value, list) and value and all(isinstance(each, str | list) for each in value):
        if len(value) > limits.choices:
            raise wrong("prompt", f"has {len(value)} prompts; {limits.choices} are the most", "array_above_max_length")
        return [_prompt(each, f"prompt.{number}", served, limits) for number, each in enumerate(value)]
    return [_prompt(value, "prompt", served, limits)]


def _prompt(value: Any, where: str, served: Served, limits: Limits) -> Prompt:
    context = served.context_length
    most = context * limits.chars_per_token if isinstance(value, str) else context
    if isinstance(value, str | list) and len(value) > most:
        raise wrong(where, f"does not fit the context of {context} tokens", "context_length_exceeded")
    if isinstance(value, str):
        return value
    if not _is_tokens(value):
        text = "must be a string, a list of strings, a list of tokens, or a list of lists of tokens"
        raise wrong(where, f"{text}, not {plain(value)}", "invalid_type")
    return read_tokens(value, where, served)


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int for each in value)


def read_tokens(value: list[Any], where: str, served: Served) -> list[int]:
    """Return tokens of a model.

    Raises:
        ApiError: an item is none.
    """
    if not _is_tokens(value):
        raise wrong(where, "must be a list of tokens, which are integers", "invalid_type")
    if not all(0 <= each < served.vocab_size for each in value):
        raise wrong(where, f"has a token that is none: ids go from 0 to {served.vocab_size - 1}", "invalid_value")
    return value


class TextWriter(Writer):
    """Chunks and completions of a text.

    Args:
        echoed: what each prompt is told as before its answers.
    """

    whole = part = "text_completion"
    prefix = "cmpl"

    def __init__(self, served: Served, sampling: Sampling, echoed: Sequence[str]) -> None:
        super().__init__(served, sampling)
        self._echoed = [text for text in echoed for _ in range(sampling.number)]

    def opening(self) -> list[dict[str, Any]]:
        """Return the echoes."""
        return [self.chunk(index, {"text": text}) for index, text in enumerate(self._echoed) if text]

    def deltas(self, news: News, answer: Answer) -> list[dict[str, Any]]:
        """Return the chunk of news."""
        text = "".join(token.text for token in news.tokens)
        placed = self.free(news, answer)
        if not (text or placed or news.ended):
            return []
        chunk = self.chunk(news.index, {"text": text}, str(answer.finish_reason) if news.ended else None)
        chunk["choices"][0]["logprobs"] = text_logprobs(placed, self.served.base.model.tokenizer) if placed else None
        return [chunk]

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return an answer as a whole."""
        placed = self.free(News(index, answer.tokens, ended=True), answer)
        asked = self.sampling.logprobs is not None
        logprobs = text_logprobs(placed, self.served.base.model.tokenizer) if asked else None
        text = self._echoed[index] + answer.text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": str(answer.finish_reason)}
