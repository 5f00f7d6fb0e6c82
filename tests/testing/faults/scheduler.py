"""Mistakes of scheduler plugins, each of which a check of the kit must find."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from attrs import frozen

from llmx import Component, RecipeError


def cosine_to_zero(_: Any, total_steps: int) -> Callable[[int], float]:
    """Divides by the number of the last step, which is 0 in a run of one step."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / (total_steps - 1)))


def tensor_valued(_: Any, total_steps: int) -> Callable[[int], Any]:
    """Returns a tensor, which a checkpoint would keep among the rates."""
    import torch

    return lambda step: torch.tensor(1 - step / total_steps)


def absolute_rate(_: Any, total_steps: int) -> Callable[[int], float]:
    """Overshoots: the warm-up is counted from 1 and not stopped at its length."""
    warmup = max(1, total_steps // 10)
    return lambda step: (step + 2) / warmup if step < warmup else 1 - (step - warmup) / total_steps


def below_zero(_: Any, total_steps: int) -> Callable[[int], float]:
    """Falls a little below 0 at the end, because warm-up is not taken off the decay."""
    warmup = total_steps // 10
    return lambda step: 1.0 if step < warmup else 1 - (step + warmup) / total_steps


def first_step_lost(_: Any, total_steps: int) -> Callable[[int], float]:
    """Warms up from 0, so that a run of one step learns nothing."""
    warmup = max(1, total_steps // 10)
    return lambda step: min(1.0, step / warmup)


def counts_its_calls(_: Any, total_steps: int) -> Callable[[int], float]:
    """Counts how often it was asked instead of looking at the step."""
    calls = 0

    def schedule(_: int) -> float:
        nonlocal calls
        calls += 1
        return max(0.0, 1 - (calls - 1) / total_steps)

    return schedule


class Smoothed:
    """Smooths over the factor it returned last."""

    def __init__(self, options: Any, total_steps: int) -> None:
        self.last, self.total = 1.0, total_steps

    def __call__(self, step: int) -> float:
        self.last = 0.9 * self.last + 0.1 * (1 - step / self.total)
        return self.last


def random_restarts(_: Any, total_steps: int) -> Callable[[int], float]:
    """Draws its restart from the global generator when it is built."""
    restart = random.randrange(1, 1000)
    return lambda step: 1 - (step % restart) / max(restart, total_steps)


class SharedTable:
    """Keeps its factors in a table of the class: the last length that was built is everybody's."""

    table: dict[int, float] = {}  # noqa: RUF012  # the mistake

    def __init__(self, options: Any, total_steps: int) -> None:
        self.table.update({step: 1 - step / total_steps for step in range(total_steps)})

    def __call__(self, step: int) -> float:
        return self.table[step]


def _fault(check: str, target: str) -> tuple[str, Component]:
    return check, Component(name=target.lower().replace("_", "-"), target=f"llmx_faults_scheduler:{target}")


FAULTS = [
    _fault("every-length", "cosine_to_zero"),
    _fault("every-length", "tensor_valued"),
    _fault("within-the-peak", "absolute_rate"),
    _fault("within-the-peak", "below_zero"),
    _fault("trains", "first_step_lost"),
    _fault("pure", "counts_its_calls"),
    _fault("pure", "Smoothed"),
    _fault("rebuilt", "random_restarts"),
    _fault("lengths-apart", "SharedTable"),
]

CRASHES = {"cosine-to-zero": "ZeroDivisionError"}
"""Faults that show as an exception of their own, and which."""


# --- unusual, and right ---------------------------------------------------------------------------------------------


def warm_restarts(_: Any, total_steps: int) -> Callable[[int], float]:
    """Three cosines one after another: the factor rises in the middle of the run."""
    period = max(1, total_steps // 3)
    return lambda step: 0.5 * (1 + math.cos(math.pi * (step % period) / period))


def whole_numbers(_: Any, total_steps: int) -> Callable[[int], float]:
    """Full rate, then none: integers, and zero for half the run."""
    return lambda step: 1 if 2 * step < total_steps else 0


@frozen
class WarmupOptions:
    warmup_steps: int = 100
    """Updates of the warm-up."""


def long_warmup(options: WarmupOptions, total_steps: int) -> Callable[[int], float]:
    """Refuses a run that its warm-up does not fit into, as a recipe's fault."""
    if options.warmup_steps > total_steps:
        raise RecipeError(f"scheduler.warmup_steps = {options.warmup_steps}: longer than {total_steps} steps")
    return lambda step: min(1.0, (step + 1) / options.warmup_steps)


CORRECT = [
    _fault("*", "warm_restarts"),
    _fault("*", "whole_numbers"),
    ("*", Component(name="long-warmup", target="llmx_faults_scheduler:long_warmup", options=WarmupOptions)),
]
