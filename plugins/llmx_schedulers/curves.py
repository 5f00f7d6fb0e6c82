"""The curves: each is a shape on [0, 1] that one function puts behind a warm-up and scales to the run.

A shape maps the part of the decay that is done, 0 at its first update and 1 one update after the run's last, to a
number from 1 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmx.errors import RecipeError

if TYPE_CHECKING:
    from llmx.protocols import Schedule
    from llmx_schedulers import DecayOptions, PolynomialOptions, WarmupOptions, WsdOptions


def cosine(options: DecayOptions, total_steps: int) -> Schedule:
    """Fall as half a period of a cosine (SGDR without restarts, Loshchilov & Hutter 2017)."""
    return _curve(options, total_steps, lambda done: (1 + math.cos(math.pi * done)) / 2, options.final_ratio)


def linear(options: DecayOptions, total_steps: int) -> Schedule:
    """Fall by the same amount at every update."""
    return _curve(options, total_steps, _line, options.final_ratio)


def polynomial(options: PolynomialOptions, total_steps: int) -> Schedule:
    """Fall as a power of the part that is left."""
    return _curve(options, total_steps, lambda done: (1 - done) ** options.power, options.final_ratio)


def constant(options: WarmupOptions, total_steps: int) -> Schedule:
    """Stay at the peak."""
    return _curve(options, total_steps, _line, final_ratio=1.0)


def wsd(options: WsdOptions, total_steps: int) -> Schedule:
    """Stay at the peak, and fall over the last part of the run (Hu et al. 2024; "sqrt": Hägele et al. 2024).

    Raises:
        RecipeError: warm-up and decay do not both fit into the run.
    """
    warmup, decay = _warmup(options, total_steps), round(options.decay_ratio * total_steps)
    if warmup + decay > total_steps + 1:  # 1: both may have been rounded up
        raise RecipeError(
            f"scheduler.decay_ratio = {options.decay_ratio:g}: {warmup} steps of warm-up and {decay} of decay "
            f"are longer than the run of {total_steps} steps"
        )
    shape = _line if options.shape == "linear" else lambda done: 1 - math.sqrt(done)
    return _curve(options, total_steps, shape, options.final_ratio, start=total_steps - decay)


def _line(done: float) -> float:
    return 1 - done


def _warmup(options: WarmupOptions, total_steps: int) -> int:
    if options.warmup_steps is None:
        return round(options.warmup_ratio * total_steps)
    if options.warmup_steps > total_steps:
        raise RecipeError(
            f"scheduler.warmup_steps = {options.warmup_steps}: longer than the run of {total_steps} steps"
        )
    return options.warmup_steps


def _curve(
    options: WarmupOptions, total_steps: int, shape: Callable[[float], float], final_ratio: float, start: int = 0
) -> Schedule:
    """Return warm-up, then the peak up to update `start`, then `shape` scaled to end at `final_ratio`.

    Raises:
        RecipeError: the warm-up is longer than the run.
    """
    warmup = _warmup(options, total_steps)
    start = max(start, warmup)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if step < start:
            return 1.0
        done = (step - start) / (total_steps - start)
        return final_ratio + (1 - final_ratio) * shape(done)

    return schedule
