"""One sequence at a time: prefill, then a token a step from the cache.

Shapes: `B` = 1 sequence, `V` vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import torch
from attrs import frozen
from torch import nn

from llmx.errors import RecipeError
from llmx.protocols import Model, Sampler, Tokenizer

REPLACEMENT = "\ufffd"


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


def prompt_ids(prompt: str, model: Model, tokenizer: Tokenizer) -> list[int]:
    """Return the ids a model sees for a prompt, the beginning token included.

    Raises:
        RecipeError: the prompt is empty for a tokenizer without a beginning token, or fills the context.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise RecipeError("prompt: is not valid UTF-8: convert it, as with iconv -t UTF-8") from None
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    if not ids:
        raise RecipeError("prompt: is empty, and the tokenizer has no token to begin with: give some text")
    return check_length(ids, model)


def check_length(ids: list[int], model: Model) -> list[int]:
    """Return the ids of a prompt, having seen that the model has room for more.

    Raises:
        RecipeError: they fill the context.
    """
    if len(ids) >= model.context_length:
        raise RecipeError(
            f"prompt: is {len(ids)} tokens long; the model's context of {model.context_length} leaves no room: "
            "shorten it"
        )
    return ids


def device_of(model: Model) -> torch.device:
    """Return where a model computes: its embedding may lie elsewhere (`train.host_embedding`)."""
    inside = itertools.chain.from_iterable(block.parameters() for block in model.blocks())
    parameters: Iterator[nn.Parameter] = itertools.chain(inside, cast(nn.Module, model).parameters())
    return next(parameters).device


def decode_tokens(
    model: Model,
    ids: Sequence[int],
    chain: Sequence[Sampler],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    seed: int,
) -> Iterator[int]:
    """Yield new token ids up to the budget, the context's end, or one of `stop_ids`, which is yielded too."""
    budget = min(max_new_tokens, model.context_length - len(ids))
    states = [[link.start(ids)] for link in chain]
    with torch.inference_mode():
        cache = model.new_cache(1, len(ids) + budget)
        device = device_of(model)
        draw = torch.Generator().manual_seed(seed)
        new = list(ids)
        for _ in range(budget):
            logits_BV = model(torch.tensor([new], device=device), cache=cache)[:, -1].float().cpu()
            for link, state in zip(chain, states, strict=True):
                logits_BV = link(logits_BV, state)
            token = int(torch.multinomial(logits_BV.softmax(-1), 1, generator=draw))
            yield token
            if token in stop_ids:
                return
            for link, state in zip(chain, states, strict=True):
                link.accept(state[0], token)
            new = [token]


def stream_text(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text as it becomes certain: a character that spans tokens comes when it is whole."""
    ids: list[int] = []
    start = shown = 0  # ids[start:shown] is the context in which the ids after it are read
    for token in tokens:
        ids.append(token)
        before, now = tokenizer.decode(ids[start:shown]), tokenizer.decode(ids[start:])
        if len(now) > len(before) and not now.endswith(REPLACEMENT):
            yield now[len(before) :]
            start, shown = shown, len(ids)
    rest = tokenizer.decode(ids[start:])[len(tokenizer.decode(ids[start:shown])) :]
    if rest:
        yield rest
