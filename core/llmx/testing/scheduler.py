"""What every scheduler must keep."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from llmx.errors import RecipeError
from llmx.testing.frame import NotApplicable, Subject

LENGTHS = (1, 2, 7, 1000)
"""Updates of the runs that are tried."""

ROUNDING = 1e-6
"""How far above 1 a factor may come by rounding."""


def _schedules(subject: Subject) -> list[tuple[int, Callable[[int], Any]]]:
    """Build a schedule for each length; options that fit a length not (a warm-up longer than the run) may refuse it."""
    built, refused = [], None
    for steps in LENGTHS:
        try:
            built.append((steps, subject.build(steps)))
        except RecipeError as error:
            refused = error
    if not built and refused is not None:
        raise refused
    return built


def every_length(subject: Subject) -> None:
    """A run of any length has a schedule, one of a single step too."""
    for steps, schedule in _schedules(subject):
        for step in range(steps):
            value = schedule(step)
            where = f"step {step} of {steps}"
            assert isinstance(value, int | float), f"{where}: a {type(value).__name__}, want a Python float"
            assert math.isfinite(value), f"{where}: the factor is {value}, want a finite number"


def within_the_peak(subject: Subject) -> None:
    """The factor is between 0 and 1: the optimizer's own rate is the peak."""
    for steps, schedule in _schedules(subject):
        for step in range(steps):
            value = float(schedule(step))
            assert 0 <= value <= 1 + ROUNDING, f"step {step} of {steps}: the factor is {value}, want 0 to 1"


def trains(subject: Subject) -> None:
    """Some step of every run has a rate above 0."""
    for steps, schedule in _schedules(subject):
        found = [float(schedule(step)) for step in range(steps)]
        assert max(found) > 0, f"a run of {steps} step(s) learns nothing: every factor is 0"


def pure(subject: Subject) -> None:
    """The factor is a function of the step alone: asked in any order and again, it is the same."""
    for steps, schedule in _schedules(subject):
        wanted = [schedule(step) for step in range(steps)]
        for step in random.Random(0).sample(range(steps), steps):
            again = schedule(step)
            assert again == wanted[step], (
                f"step {step} of {steps}: {wanted[step]} when asked in order, {again} when asked out of order: "
                "a resumed run asks for its next step first"
            )


def rebuilt(subject: Subject) -> None:
    """A schedule that is built again gives the same factors, as a resumed run needs."""
    first = _schedules(subject)
    tables = [[schedule(step) for step in range(steps)] for steps, schedule in first]
    for (steps, schedule), wanted in zip(_schedules(subject), tables, strict=True):
        for step in range(steps):
            value = schedule(step)
            assert value == wanted[step], f"step {step} of {steps}: {value}, but {wanted[step]} from the first build"


def lengths_apart(subject: Subject) -> None:
    """Schedules of two lengths do not disturb each other."""
    schedules = _schedules(subject)
    if len(schedules) < 2:
        raise NotApplicable("the options fit one of the tried lengths alone")
    for steps, schedule in schedules:
        values = [schedule(step) for step in range(steps)]
        alone = subject.build(steps)
        wanted = [alone(step) for step in range(steps)]
        assert values == wanted, f"the schedule of {steps} steps changed when one of {schedules[-1][0]} was built"


CHECKS = (every_length, within_the_peak, trains, pure, rebuilt, lengths_apart)
