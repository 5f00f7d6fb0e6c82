"""Biases of tokens and penalties by counts, against a plain loop over OpenAI's formula.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import pytest
import torch

from llmx.options import structure
from llmx.protocols import Sampler
from llmx_samplers import llmx_samplers

COMPONENTS = {each.name: each for each in llmx_samplers()}
V = 40


class Sized:
    """All that a bias asks of a tokenizer."""

    vocab_size = V


def build(name: str, **values: Any) -> Sampler:
    options, faults = structure(COMPONENTS[name].options, values, name)
    assert not faults
    link: Sampler = COMPONENTS[name].load()(options, Sized())
    return link


def rows(seed: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, V, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0.0), (0.0, 1.5), (-1.0, 0.25), (2.0, 2.0)])
def test_penalties_are_those_of_openai(frequency: float, presence: float) -> None:
    """logit - count * frequency - (count > 0) * presence, over the output alone, in each row by itself."""
    link = build("count-penalty", frequency=frequency, presence=presence)
    outputs = [[3, 3, 3, 7], [], [39, 0, 3]]
    states = [link.start([5, 5, 9]) for _ in outputs]
    for state, output in zip(states, outputs, strict=True):
        for token in output:
            link.accept(state, token)
    logits_BV = rows(0)
    found_BV = link(logits_BV.clone(), states)
    for row_V, found_V, output in zip(logits_BV.tolist(), found_BV.tolist(), outputs, strict=True):
        counts = Counter(output)
        wanted = [logit - counts[t] * frequency - (counts[t] > 0) * presence for t, logit in enumerate(row_V)]
        assert found_V == pytest.approx(wanted, abs=1e-5)


def test_biases_are_added() -> None:
    """To the named tokens alone, in every row; what was dropped stays dropped."""
    logits_BV = rows(1)
    logits_BV[1, 4] = -math.inf
    found_BV = build("logit-bias", bias={"4": 100.0, "39": -100})(logits_BV.clone(), [None] * 3)
    wanted_BV = logits_BV.clone()
    wanted_BV[:, 4] += 100
    wanted_BV[:, 39] -= 100
    assert torch.equal(found_BV, wanted_BV)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "values"),
    [("logit-bias", {"bias": {str(t): -100.0 for t in range(V)}}), ("count-penalty", {"frequency": 2, "presence": 2})],
)
def test_no_row_is_emptied(name: str, values: Any, dtype: torch.dtype) -> None:
    """At the ends of a type too: a sum beyond them is the end, and never an infinity."""
    link = build(name, **values)
    logits_BV = rows(2).to(dtype)
    logits_BV[1], logits_BV[2] = torch.finfo(dtype).min, torch.finfo(dtype).max
    states = [link.start([]) for _ in logits_BV]
    for state in states:
        for token in [*range(V), *range(V)]:
            link.accept(state, token)
    assert link(logits_BV, states).isfinite().all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("logit-bias", {"bias": {"a": 1.0}}, "'a' must be the id of a token"),
        ("logit-bias", {"bias": {"1": 101.0}}, "must be from -100 to 100"),
        ("logit-bias", {"bias": {"1": math.nan}}, "must be from -100 to 100"),
        ("count-penalty", {"frequency": 3.0}, "must be <= 2"),
        ("count-penalty", {"presence": -3.0}, "must be >= -2"),
    ],
)
def test_an_option_out_of_its_range_is_a_fault(name: str, values: Any, message: str) -> None:
    """With the range in the text."""
    _, faults = structure(COMPONENTS[name].options, values, "sampler")
    assert len(faults) == 1
    assert re.search(message, faults[0].message)


def test_a_token_that_is_none() -> None:
    """A bias for an id beyond the vocabulary is told when the chain is built."""
    with pytest.raises(Exception, match="no such token; ids go from 0 to 39"):
        build("logit-bias", bias={"40": 1.0})
