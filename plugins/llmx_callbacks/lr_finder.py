"""A learning-rate range test (Smith 2017): the rate rises over the run, and the loss shows which one to take."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from llmx import DivergedError, RecipeError, hookimpl
from llmx_callbacks.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

    from llmx.assembly import Run
    from llmx_callbacks import LrFinderOptions

LEAST_STEPS = 3
"""Steps of the shortest ramp that has a slope within it."""
DIVERGED = 4
"""Times the lowest smoothed loss at which the ramp ends, as in fastai."""
RULE = (
    "the rate at which the loss, smoothed from both sides, falls fastest over the logarithm of the rate, among the "
    "rates up to the one with the lowest smoothed loss"
)


@frozen
class Point:
    """One step of the ramp: the rate of the first parameter group, the loss before that update, in nats per token."""

    step: int
    lr: float
    loss: float


class LrFinder:
    """Raises the rate exponentially from the first step to the last and writes `lr-finder.json`, with a picture of it
    where matplotlib is installed. It ends early when the smoothed loss has grown fourfold from its lowest."""

    def __init__(self, options: LrFinderOptions, run: Run) -> None:
        if run.sizes.steps < LEAST_STEPS:
            raise RecipeError(
                f"callback.lr-finder: {run.sizes.steps} steps are too few for a ramp: set train.steps to "
                f"{LEAST_STEPS} or more; 100 are usual"
            )
        self.options = options
        self.points: list[Point] = []
        self.average = Average(options.smoothing)
        self.lowest = math.inf

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        low, high = self.options.min_lr, self.options.max_lr
        last = self.points[-1] if self.points else None
        if last is not None and not math.isclose(last.lr, self._rate(run, last.step)):
            raise RecipeError(
                f"callback.lr-finder: the ramp was at {last.lr:.2e} in step {last.step}, not where these options have "
                "it: resume with the steps and rates it began with, or start a new run"
            )
        say(run, f"lr-finder: this run measures: rates from {low:g} to {high:g}; its model is not for use")

    @hookimpl
    def llmx_before_step(self, run: Run) -> None:
        lr = self._rate(run, run.state.step + 1)
        groups = run.optimizer.param_groups
        for group in groups:
            group["lr"] = lr * (group["initial_lr"] / groups[0]["initial_lr"])

    def _rate(self, run: Run, step: int) -> float:
        """Return the rate of an update, counted from 1."""
        low, high = self.options.min_lr, self.options.max_lr
        rate: float = low * (high / low) ** ((step - 1) / (run.sizes.steps - 1))
        return rate

    @hookimpl
    def llmx_after_step(self, run: Run, metrics: dict[str, float]) -> None:
        smoothed = self._add(Point(run.state.step, metrics["lr"], metrics["train/loss"]))
        if smoothed > DIVERGED * self.lowest and run.state.step < run.sizes.steps:
            run.stop(f"lr-finder: at a rate of {metrics['lr']:.2e} the loss is {DIVERGED} times its lowest")

    @hookimpl
    def llmx_after_run(self, run: Run) -> None:
        self._conclude(run)

    @hookimpl
    def llmx_run_failed(self, run: Run, error: BaseException) -> None:
        if isinstance(error, DivergedError):  # a ramp may end like this; what it has measured holds
            self._conclude(run)

    def _add(self, point: Point) -> float:
        """Take a point and return the loss smoothed up to it."""
        self.points.append(point)
        smoothed = self.average.of(point.loss)
        self.lowest = min(self.lowest, smoothed)
        return smoothed

    def _conclude(self, run: Run) -> None:
        """Write the result and say it."""
        if not run.world.main:
            return
        smoothed = smooth([point.loss for point in self.points], self.options.smoothing)
        found = suggestion(self.points, self.options.smoothing)
        rows = [{**asdict(point), "smoothed": each} for point, each in zip(self.points, smoothed, strict=True)]
        path = run.folder / "lr-finder.json"
        path.write_text(json.dumps({"suggestion": found, "rule": RULE, "points": rows}, indent=1) + "\n")
        if self.points and importlib.util.find_spec("matplotlib") is not None:
            plot(path.with_suffix(".png"), self.points, smoothed, found)
        if not self.points:
            say(run, "lr-finder: the run ended before its first step was done: there is nothing to suggest a rate from")
        elif found is None:
            say(run, f"lr-finder: the loss never fell: give more steps or a lower min_lr; see {path}")
        else:
            say(
                run, f"lr-finder: the loss falls fastest at a rate of {found:.2e}: try optimizer.lr={found:.2e}; {path}"
            )
        say(run, "lr-finder: this run was a measurement; train anew for a model")

    def state_dict(self) -> dict[str, Any]:
        return {"points": [asdict(point) for point in self.points]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for point in state["points"]:
            self._add(Point(**point))


class Average:
    """The exponential moving average of values so far, divided by the weight they have had (as Adam does)."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.sum, self.count = 0.0, 0

    def of(self, value: float) -> float:
        """Take one more value and return the average with it."""
        self.count += 1
        self.sum = self.beta * self.sum + (1 - self.beta) * value
        return self.sum / (1 - self.beta**self.count)


def smooth(values: Sequence[float], beta: float) -> list[float]:
    """Return the average up to each value."""
    average = Average(beta)
    return [average.of(value) for value in values]


def suggestion(points: Sequence[Point], beta: float) -> float | None:
    """Return the rate of the steepest descent, None where there is no descent, as with no points.

    fastai and Lightning take the steepest descent of an average that looks back, and so lags by its width: here the
    mean of one that looks back and one that looks ahead has no lag. Beyond the lowest loss nothing is looked at.
    """
    if not points:
        return None
    back = smooth([point.loss for point in points], beta)
    count = back.index(min(back)) + 1
    ahead = smooth([point.loss for point in points[:count]][::-1], beta)[::-1]
    losses = [(a + b) / 2 for a, b in zip(back, ahead, strict=False)]
    rates = [math.log(point.lr) for point in points[:count]]
    slopes = {i: (losses[i + 1] - losses[i - 1]) / (rates[i + 1] - rates[i - 1]) for i in range(1, count - 1)}
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return points[steepest].lr if steepest is not None and slopes[steepest] < 0 else None


def plot(path: Path, points: Sequence[Point], smoothed: Sequence[float], found: float | None) -> None:
    """Draw loss over rate."""
    from matplotlib.figure import Figure  # not pyplot: that would choose a window system for the whole process

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rates = [point.lr for point in points]
    axes.plot(rates, [point.loss for point in points], ".", color="0.7", label="loss")
    axes.plot(rates, smoothed, label="smoothed")
    if found is not None:
        axes.axvline(found, color="C1", linestyle="--", label=f"steepest descent, {found:.2e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats per token)")
    if max(point.loss for point in points) > 1.5 * points[0].loss:  # a diverged end would flatten the rest
        axes.set_ylim(top=1.5 * points[0].loss)
    axes.legend()
    figure.savefig(path, dpi=120)
