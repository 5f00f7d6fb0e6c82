"""Links that look back at the prompt and the output: one state per sequence.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from attrs import Factory, define

from llmx.protocols import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.protocols import Tokenizer
    from llmx_samplers import NoRepeatNgramOptions, RepetitionPenaltyOptions


@define(eq=False)
class Seen:
    """The tokens a sequence holds.

    A mask on the logits' device, so that a long sequence costs a step no more than a short one; made by the first
    step, since only the logits tell the width and the device.
    """

    pending: list[int]
    """Tokens that are not in the mask yet."""
    mask: Tensor | None = None
    """`[V]`, True for a token that was seen."""

    def mask_like(self, logits_V: Tensor) -> Tensor:
        """Return the mask with every token so far, as wide as the logits and beside them."""
        if self.mask is None:
            self.mask = torch.zeros_like(logits_V, dtype=torch.bool)
        if self.pending:
            self.mask[torch.tensor(self.pending, device=logits_V.device)] = True
            self.pending.clear()
        return self.mask


class RepetitionPenalty(Sampler):
    """Divide positive logits of seen tokens by the penalty, multiply negative ones (CTRL, Keskar et al. 2019)."""

    def __init__(self, options: RepetitionPenaltyOptions, _tokenizer: Tokenizer) -> None:
        self.penalty = options.penalty

    def start(self, prompt_ids: Sequence[int]) -> Seen:
        return Seen(list(prompt_ids))

    def accept(self, state: Seen, token: int) -> None:
        state.pending.append(token)

    def __call__(self, logits_BV: Tensor, states: Sequence[Seen]) -> Tensor:
        seen_BV = torch.stack([state.mask_like(row_V) for state, row_V in zip(states, logits_BV, strict=True)])
        worse_BV = torch.where(logits_BV > 0, logits_BV / self.penalty, logits_BV * self.penalty)
        worse_BV.clamp_(min=torch.finfo(worse_BV.dtype).min)  # an overflow must not leave a row without a token
        return torch.where(seen_BV & (logits_BV > -math.inf), worse_BV, logits_BV)


@define(eq=False)
class Ngrams:
    """The n-grams a sequence holds: what followed each run of n - 1 tokens, and the last such run."""

    last: deque[int]
    followers: dict[tuple[int, ...], set[int]] = Factory(dict)


class NoRepeatNgram(Sampler):
    """Ban tokens that would complete an n-gram of the sequence (Paulus et al. 2018).

    A row in which nothing else could be drawn stays as it is: a repetition is better than no token.
    """

    def __init__(self, options: NoRepeatNgramOptions, _tokenizer: Tokenizer) -> None:
        self.size = options.size

    def start(self, prompt_ids: Sequence[int]) -> Ngrams:
        state = Ngrams(deque(maxlen=self.size - 1))
        for token in prompt_ids:
            self.accept(state, token)
        return state

    def accept(self, state: Ngrams, token: int) -> None:
        # runs shorter than n - 1, at the beginning, do no harm: nothing looks them up afterwards
        state.followers.setdefault(tuple(state.last), set()).add(token)
        state.last.append(token)

    def __call__(self, logits_BV: Tensor, states: Sequence[Ngrams]) -> Tensor:
        banned = [(row, token) for row, state in enumerate(states) for token in _repeats(state)]
        if not banned:
            return logits_BV
        rows, tokens = torch.tensor(banned, device=logits_BV.device).unbind(-1)
        kept_BV = logits_BV.index_put((rows, tokens), logits_BV.new_tensor(-math.inf))
        empty_B1 = (kept_BV == -math.inf).all(-1, keepdim=True)
        return torch.where(empty_B1, logits_BV, kept_BV)


def _repeats(state: Ngrams) -> set[int]:
    return state.followers.get(tuple(state.last), set())
