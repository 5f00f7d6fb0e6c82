"""The next token of each sequence from its logits.

Shapes: `B` sequences, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmx.errors import LlmxError
from llmx.protocols import Sampler


class Drawer:
    """The draws of one sequence: the states of its chain and its own random numbers."""

    def __init__(self, chain: Sequence[Sampler], prompt_ids: Sequence[int], seed: int) -> None:
        self.chain = chain
        self.states = [link.start(prompt_ids) for link in chain]
        self.generator = torch.Generator().manual_seed(seed)

    def accept(self, token: int) -> None:
        """Note that a token was drawn."""
        for link, state in zip(self.chain, self.states, strict=True):
            link.accept(state, token)


def draw_tokens(logits_BV: Tensor, drawers: Sequence[Drawer]) -> list[int]:
    """Return a token a row; the rows have one chain. A row's token depends on its own logits and drawer alone."""
    left_BV = through_chain(logits_BV, drawers)
    return [drawn(logits_V, drawer.generator) for logits_V, drawer in zip(left_BV, drawers, strict=True)]


def through_chain(logits_BV: Tensor, drawers: Sequence[Drawer]) -> Tensor:
    """Return what the chain of the rows leaves of their logits, which it may change."""
    for number, link in enumerate(drawers[0].chain):
        states: list[Any] = [drawer.states[number] for drawer in drawers]
        logits_BV = link(logits_BV, states)
    return logits_BV


def drawn(logits_V: Tensor, generator: torch.Generator) -> int:
    """Draw from softmax(logits), over those tokens alone that a chain left.

    Raises:
        LlmxError: it left none.
    """
    kept = (logits_V > -torch.inf).nonzero()[:, 0]
    if not len(kept):
        raise LlmxError(
            "sampler: the chain leaves no token to draw: put a link that forbids tokens, such as json-schema, before "
            "those that keep the likeliest; or the model's logits are no numbers"
        )
    if len(kept) == 1:
        return int(kept)
    chosen = torch.multinomial(logits_V[kept].softmax(-1), 1, generator=generator)
    return int(kept[chosen])


def log_probabilities(logits_V: Tensor, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the log-probability of a token, and the `count` likeliest tokens with theirs, in nats."""
    logprobs_V = logits_V.log_softmax(-1)
    best = logprobs_V.topk(min(count, len(logprobs_V)))
    return float(logprobs_V[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
