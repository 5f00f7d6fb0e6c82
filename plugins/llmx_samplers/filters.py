"""Links without a history: each is a function of the logits alone.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen

from llmx.protocols import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from llmx import NoOptions
    from llmx.protocols import Tokenizer
    from llmx_samplers import MinPOptions, TemperatureOptions, TopKOptions, TopPOptions


@frozen
class Filter(Sampler):
    """A link that needs no state: `function(logits_BV)` returns the changed logits_BV."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:  # there is no history
        return self.function(logits_BV)


def greedy(_options: NoOptions, _tokenizer: Tokenizer) -> Filter:
    """Keep the best token, the one with the lowest id on a tie."""

    def keep_best(logits_BV: Tensor) -> Tensor:
        best_B1 = logits_BV.argmax(-1, keepdim=True)
        return torch.full_like(logits_BV, -math.inf).scatter_(-1, best_B1, logits_BV.gather(-1, best_B1))

    return Filter(keep_best)


def temperature(options: TemperatureOptions, _tokenizer: Tokenizer) -> Filter:
    """Divide by the temperature; a row that would overflow has its maximum taken off first."""
    # torch may multiply by the reciprocal: both must be normal in fp32, or 0 and -inf divided are nan
    least = torch.finfo(torch.float32).tiny
    divisor = min(max(options.temperature, least), 1 / least)

    def divide(logits_BV: Tensor) -> Tensor:
        scaled_BV = logits_BV / divisor
        fits_B1 = scaled_BV.amax(-1, keepdim=True).isfinite()
        shifted_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / divisor
        return torch.where(fits_B1, scaled_BV, shifted_BV)

    return Filter(divide)


def top_k(options: TopKOptions, _tokenizer: Tokenizer) -> Filter:
    """Keep the k best tokens and those tied with the last of them (Fan et al. 2018)."""

    def keep_best(logits_BV: Tensor) -> Tensor:
        k = min(options.k, logits_BV.shape[-1])
        last_B1 = logits_BV.topk(k).values[:, -1:]
        return logits_BV.masked_fill_(logits_BV < last_B1, -math.inf)

    return Filter(keep_best)


def top_p(options: TopPOptions, _tokenizer: Tokenizer) -> Filter:
    """Keep the smallest set of best tokens whose probability reaches p (Holtzman et al. 2020)."""

    def keep_nucleus(logits_BV: Tensor) -> Tensor:
        # stable: which of two tied tokens stays depends on their ids, not on the rows beside them
        sorted_BV, ids_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        # summed from the least likely on: a tail of tiny numbers would vanish beside a sum near 1
        rest_BV = sorted_BV.softmax(-1, dtype=torch.float32).flip(-1).cumsum(-1).flip(-1)
        dropped_BV = rest_BV <= 1 - options.p
        dropped_BV[:, 0] = False
        return logits_BV.masked_fill_(torch.empty_like(dropped_BV).scatter_(-1, ids_BV, dropped_BV), -math.inf)

    return Filter(keep_nucleus)


def min_p(options: MinPOptions, _tokenizer: Tokenizer) -> Filter:
    """Keep tokens whose probability is at least p times the best one's (Nguyen et al. 2024)."""
    below_best = math.log(options.p) if options.p > 0 else -math.inf  # p * max(prob) is max(logit) + log(p)

    def keep_likely(logits_BV: Tensor) -> Tensor:
        least_B1 = logits_BV.amax(-1, keepdim=True) + below_best
        return logits_BV.masked_fill_(logits_BV < least_B1, -math.inf)

    return Filter(keep_likely)
