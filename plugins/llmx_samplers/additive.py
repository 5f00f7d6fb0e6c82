"""Links that add to logits: biases of single tokens, and penalties for what the output holds.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmx.errors import RecipeError
from llmx.protocols import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.protocols import Tokenizer
    from llmx_samplers import CountPenaltyOptions, LogitBiasOptions


class LogitBias(Sampler):
    """Add a number to the logits of tokens, the same in every row and at every step."""

    def __init__(self, options: LogitBiasOptions, tokenizer: Tokenizer) -> None:
        unknown = [token for token in options.bias if int(token) >= tokenizer.vocab_size]
        if unknown:
            raise RecipeError(
                f"logit-bias.bias: {unknown[0]}: no such token; ids go from 0 to {tokenizer.vocab_size - 1}"
            )
        self._ids = torch.tensor([int(token) for token in options.bias], dtype=torch.long)
        self._bias = torch.tensor(list(options.bias.values()), dtype=torch.float32)

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        ids = self._ids.to(logits_BV.device)
        bias = self._bias.to(logits_BV.device, logits_BV.dtype)
        logits_BV[:, ids] = _added(logits_BV[:, ids], bias)
        return logits_BV


class CountPenalty(Sampler):
    """Take off a penalty for each token of the output: once, and for every time it came (as OpenAI defines both)."""

    def __init__(self, options: CountPenaltyOptions, _tokenizer: Tokenizer) -> None:
        self.frequency, self.presence = options.frequency, options.presence

    def start(self, prompt_ids: Sequence[int]) -> Counter[int]:
        return Counter()

    def accept(self, state: Counter[int], token: int) -> None:
        state[token] += 1

    def __call__(self, logits_BV: Tensor, states: Sequence[Counter[int]]) -> Tensor:
        for row_V, state in zip(logits_BV, states, strict=True):
            if state:
                ids = torch.tensor(list(state), device=row_V.device)
                counts = torch.tensor(list(state.values()), device=row_V.device, dtype=row_V.dtype)
                row_V[ids] = _added(row_V[ids], -(counts * self.frequency + self.presence))
        return logits_BV


def _added(logits: Tensor, more: Tensor) -> Tensor:
    """Return the sum, finite where the logits are: what a filter dropped does not come back, and no row is emptied."""
    finite = torch.finfo(logits.dtype)
    return torch.where(logits > -torch.inf, (logits + more).clamp(finite.min, finite.max), logits)
