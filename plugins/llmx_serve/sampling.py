"""How a request wants its tokens drawn, in OpenAI's fields and those that vLLM and llama.cpp add."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from llmx_serve.faults import wrong
from llmx_serve.fields import Fields
from llmx_serve.limits import Limits

Link = tuple[str, Mapping[str, Any]]
"""Name and options of a sampler."""
BIASED = 100.0
LAWS = ("temperature", "top_p", "top_k", "min_p")
"""Fields that say what tokens are drawn by; a request with one of them leaves the run's own chain."""


@frozen
class Sampling:
    """What a request says of its answers.

    Attributes:
        number: answers to each prompt.
        max_tokens: None where the request names no limit.
        forms: samplers that keep an answer to a form, by the field of the request that asks for it.
        links: samplers before the drawing: biases and penalties.
        law: samplers that take the place of the run's chain; None leaves that.
        logprobs: as `llmx.generate.request.Request` has it.
    """

    number: int
    max_tokens: int | None
    stop: tuple[str, ...]
    seed: int
    links: tuple[Link, ...]
    law: tuple[Link, ...] | None
    logprobs: int | None = None
    forms: Mapping[str, tuple[Link, ...]] = field(factory=dict)


def read_sampling(fields: Fields, limits: Limits, context_length: int, vocab_size: int) -> Sampling:
    """Read the fields that chats and completions share.

    Raises:
        ApiError: one is of a wrong type, or out of its bounds.
    """
    most = min(context_length, limits.max_tokens or context_length)
    number = fields.integer("n", 1, limits.choices) or 1
    best = fields.integer("best_of", 1, limits.choices)
    if best is not None and best != number:
        raise wrong("best_of", "must be n: no answer is computed that is not sent", "unsupported_value")
    tokens, older = (fields.integer(name, 1, most) for name in ("max_completion_tokens", "max_tokens"))
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    return Sampling(
        number=number,
        max_tokens=tokens or older,
        stop=_stop(fields, limits),
        seed=secrets.randbits(31) if seed is None else seed % 2**63,
        links=_links(fields, limits, vocab_size),
        law=_law(fields, vocab_size),
    )


def _stop(fields: Fields, limits: Limits) -> tuple[str, ...]:
    value = fields.values.get("stop")
    stop = [value] if isinstance(value, str) else fields.array("stop", limits.stop_strings)
    for number, each in enumerate(stop):
        where = "stop" if value is each else f"stop.{number}"
        if not isinstance(each, str):
            raise wrong(where, "must be a string", "invalid_type")
        if not 0 < len(each) <= limits.stop_chars:
            raise wrong(where, f"must have 1 to {limits.stop_chars} characters, not {len(each)}", "invalid_value")
    return tuple(dict.fromkeys(stop))


def _links(fields: Fields, limits: Limits, vocab_size: int) -> tuple[Link, ...]:
    found: list[Link] = []
    bias = fields.object("logit_bias")
    if bias is not None and bias.values:
        if len(bias.values) > limits.biases:
            raise wrong("logit_bias", f"names {len(bias.values)} tokens; {limits.biases} are the most", "invalid_value")
        wanted = {name: bias.number(name, -BIASED, BIASED) or 0.0 for name in bias.values}
        for name in wanted:
            if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < vocab_size):
                raise wrong(bias.at(name[:20]), f"is no token: ids go from 0 to {vocab_size - 1}", "invalid_value")
        found.append(("logit-bias", {"bias": {str(int(name)): value for name, value in wanted.items()}}))
    frequency = fields.number("frequency_penalty", -2, 2) or 0.0
    presence = fields.number("presence_penalty", -2, 2) or 0.0
    if frequency or presence:
        found.append(("count-penalty", {"frequency": frequency, "presence": presence}))
    repetition = fields.number("repetition_penalty", 1, 10) or 1.0
    if repetition != 1:
        found.append(("repetition-penalty", {"penalty": repetition}))
    return tuple(found)


def _law(fields: Fields, vocab_size: int) -> tuple[Link, ...] | None:
    temperature, top_p = fields.number("temperature", 0, 2), fields.number("top_p", 0, 1)
    top_k, min_p = fields.integer("top_k", -1, 2**31), fields.number("min_p", 0, 1)
    if not any(fields.has(each) for each in LAWS):
        return None
    if temperature == 0 or top_p == 0:
        return (("greedy", {}),)
    law: list[Link] = []
    if temperature is not None and temperature != 1:
        law.append(("temperature", {"temperature": temperature}))
    if top_k is not None and 0 < top_k < vocab_size:
        law.append(("top-k", {"k": top_k}))
    if top_p is not None and top_p < 1:
        law.append(("top-p", {"p": top_p}))
    if min_p:
        law.append(("min-p", {"p": min_p}))
    return tuple(law)
