"""Samplers with the mistakes that authors make, and correct ones that are unlike ours.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmx import Component, NoOptions
from llmx.protocols import Sampler, Tokenizer


class Link(Sampler):
    """Correct: changes nothing."""

    def __init__(self, _options: NoOptions, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV


# --- faults ---------------------------------------------------------------------------------------------------------


class FiftyBest(Link):
    """topk(50) of a vocabulary of fewer tokens is an error."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV.masked_fill(logits_BV < logits_BV.topk(50).values[:, -1:], -math.inf)


class OnlyTheBest(Link):
    """The logits of the kept tokens alone are returned."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV.topk(min(40, logits_BV.shape[-1] - 1)).values


class Doubles(Link):
    """A calculation in double precision comes back as one."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV.double().log_softmax(-1)


class MasksTheLimit(Link):
    """A nucleus without its first token: one likely token alone is cut too."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        sorted_BV, ids_BV = logits_BV.sort(dim=-1, descending=True)
        cut_BV = sorted_BV.softmax(-1).cumsum(-1) > 0.9
        return logits_BV.masked_fill(torch.empty_like(cut_BV).scatter_(-1, ids_BV, cut_BV), -math.inf)


class Standardises(Link):
    """Logits are divided by their spread, which is 0 or NaN for some rows."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return (logits_BV - logits_BV.mean(-1, keepdim=True)) / logits_BV.std(-1, keepdim=True)


class NeverTwice(Link):
    """A token that was drawn is banned, also when nothing else is left."""

    def start(self, prompt_ids: Sequence[int]) -> set[int]:
        return set()

    def accept(self, state: set[int], token: int) -> None:
        state.add(token)

    def __call__(self, logits_BV: Tensor, states: Sequence[set[int]]) -> Tensor:
        for row_V, seen in zip(logits_BV, states, strict=True):
            row_V[list(seen)] = -math.inf
        return logits_BV


class Smooths(Link):
    """Every token gets a little probability, those that were masked too."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return (logits_BV.softmax(-1) + 1e-6).log()


class FiniteMask(Link):
    """The mask is a large negative number in place of -inf, and replaces -inf too."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV.clamp(min=-1e9)


class BestOfAll(Link):
    """The threshold is the best logit of the whole batch."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        kept_BV = (logits_BV >= logits_BV.max() - 6) | (logits_BV == logits_BV.amax(-1, keepdim=True))
        return logits_BV.masked_fill(~kept_BV, -math.inf)


class FirstState(Link):
    """The state of the first row is used for every row."""

    def start(self, prompt_ids: Sequence[int]) -> list[int]:
        return list(prompt_ids)

    def accept(self, state: list[int], token: int) -> None:
        state.append(token)

    def __call__(self, logits_BV: Tensor, states: Sequence[list[int]]) -> Tensor:
        logits_BV[:, states[0]] -= 1.0
        return logits_BV


class OneHistory(FirstState):
    """The history is kept in the link: sequences add to each other's."""

    def __init__(self, options: NoOptions, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.history: list[int] = []

    def start(self, prompt_ids: Sequence[int]) -> None:
        self.history = list(prompt_ids)

    def accept(self, state: None, token: int) -> None:
        self.history.append(token)

    def __call__(self, logits_BV: Tensor, states: Sequence[None]) -> Tensor:
        return super().__call__(logits_BV, [self.history])


class OwnRows(FirstState):
    """Each row is lowered by its own state's tokens."""

    def __call__(self, logits_BV: Tensor, states: Sequence[list[int]]) -> Tensor:
        for row_V, seen in zip(logits_BV, states, strict=True):
            row_V[sorted(set(seen))] -= 1.0
        return logits_BV


class CachedStates(OwnRows):
    """States are cached by the prompt: sequences with equal prompts share one."""

    def __init__(self, options: NoOptions, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.cache: dict[tuple[int, ...], list[int]] = {}

    def start(self, prompt_ids: Sequence[int]) -> list[int]:
        return self.cache.setdefault(tuple(prompt_ids), list(prompt_ids))


class KeepsThePrompt(OwnRows):
    """The caller's list of prompt ids is the state, and grows."""

    def start(self, prompt_ids: list[int]) -> list[int]:
        return prompt_ids


class Gumbel(Link):
    """Noise is drawn from torch's global generator."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV - torch.empty_like(logits_BV).exponential_().log()


class CoinToss(Link):
    """Now and then, by Python's global generator, the best token is left out."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV / 2 if random.random() < 0.5 else logits_BV


class GoesOn(Link):
    """A generator of its own goes on from one text to the next."""

    def __init__(self, options: NoOptions, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV + torch.randn(logits_BV.shape, generator=self.generator)


class Budget(Link):
    """After so many tokens of all texts together only the end token is left."""

    def __init__(self, options: NoOptions, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.drawn = 0

    def accept(self, state: None, token: int) -> None:
        self.drawn += 1

    def __call__(self, logits_BV: Tensor, states: Sequence[None]) -> Tensor:
        if self.drawn > 30:
            logits_BV[:, : self.tokenizer.vocab_size - 1] = -math.inf
        return logits_BV


# --- correct, but unlike ours ---------------------------------------------------------------------------------------


class InPlace(Link):
    """Correct: logits are changed where they are, and log-probabilities come back."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return logits_BV.copy_(logits_BV.log_softmax(-1))


class NoLineEnd(Link):
    """Correct: the line end is masked where another token is left, by the tokenizer's id."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        masked_BV = logits_BV.clone()
        masked_BV[:, self.tokenizer.encode("\n")[0]] = -math.inf
        empty_B1 = (masked_BV == -math.inf).all(-1, keepdim=True)
        return torch.where(empty_B1, logits_BV, masked_BV)


class OwnNoise(Link):
    """Correct: noise from a generator that each sequence has for itself."""

    def start(self, prompt_ids: Sequence[int]) -> torch.Generator:
        return torch.Generator().manual_seed(sum(prompt_ids))

    def __call__(self, logits_BV: Tensor, states: Sequence[torch.Generator]) -> Tensor:
        noise_BV = torch.stack(
            [torch.rand(row_V.shape, generator=s) for row_V, s in zip(logits_BV, states, strict=True)]
        )
        return logits_BV + noise_BV


class StepsDown(Link):
    """Correct: a temperature that falls with the length of the sequence."""

    def start(self, prompt_ids: Sequence[int]) -> list[int]:
        return [len(prompt_ids)]

    def accept(self, state: list[int], token: int) -> None:
        state[0] += 1

    def __call__(self, logits_BV: Tensor, states: Sequence[list[int]]) -> Tensor:
        lengths_B1 = torch.tensor(states, dtype=torch.float32)
        return logits_BV / (0.5 + 1 / (1 + lengths_B1))


def planted(target: type) -> Component:
    """Return the component of a class of this file."""
    name = "".join(f"-{each.lower()}" if each.isupper() else each for each in target.__name__).strip("-")
    summary = (target.__doc__ or "").partition("\n")[0]
    return Component(name=name, target=f"llmx_faults_sampler:{target.__name__}", summary=summary)


BROKEN = {
    "any-size": (FiftyBest, OnlyTheBest, Doubles),
    "always-a-token": (MasksTheLimit, Standardises, NeverTwice),
    "masked-tokens-stay-masked": (Smooths, FiniteMask),
    "rows-are-alone": (BestOfAll, FirstState),
    "sequences-are-alone": (FirstState, OneHistory, CachedStates, KeepsThePrompt),
    "draws-nothing-itself": (Gumbel, CoinToss),
    "a-seed-gives-the-same-text": (GoesOn, Budget),
}
FAULTS = [(check, planted(target)) for check, targets in BROKEN.items() for target in targets]
"""A check's name and a component that breaks its promise."""

CRASHES = {"fifty-best": "RuntimeError"}
"""Faults that show as an exception of their own, and which."""

CORRECT = [("*", planted(target)) for target in (Link, InPlace, NoLineEnd, OwnRows, OwnNoise, StepsDown)]
"""Components that no check may accuse."""
