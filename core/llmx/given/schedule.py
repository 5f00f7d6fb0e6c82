"""Learning rates by a scheduler of torch, as a pure function of the step."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from llmx.errors import RecipeError
from llmx.protocols import Schedule


class _Groups(Optimizer):
    """The parameter groups of an optimizer without their parameters: what a scheduler of torch turns."""

    _opt_called = True  # it never moves, so there is no order of steps to warn of

    def __init__(self, optimizer: Optimizer) -> None:
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": [torch.zeros(())]}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, dict(optimizer.defaults))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


class TorchSchedule:
    """The rates that a scheduler of torch gives, each step's kept, so that a run can go on from any step.

    It turns the groups of a stand-in: the run's own optimizer gets its rates from the run alone. What a scheduler
    changes besides rates, such as the momentum of `OneCycleLR`, stays as it is.

    Args:
        scheduler: one of torch on an optimizer of one's own, or a function that makes one for an optimizer.
    """

    def __init__(self, scheduler: LRScheduler | Callable[[Optimizer], LRScheduler]) -> None:
        self._make = scheduler if not isinstance(scheduler, LRScheduler) else None
        self._scheduler = None if self._make else self._on_stand_in(scheduler)  # type: ignore[arg-type]
        self._rates: list[list[float]] = []
        self._peaks: list[float] = []

    def __call__(self, step: int) -> float:
        """Return the factor on the first group's peak rate."""
        return self.factor(0, step)

    def bind(self, optimizer: Optimizer) -> dict[str, Schedule]:
        """Take an optimizer's groups for those to be scheduled; return the schedules of all but the first by name.

        A group without a name is given one.

        Raises:
            RecipeError: no scheduler of torch came of it, or one that goes by a metric.
        """
        self._peaks = [float(group["initial_lr"]) for group in optimizer.param_groups]
        if self._make is not None and self._scheduler is None:
            stand_in = _Groups(optimizer)
            for group, peak in zip(stand_in.param_groups, self._peaks, strict=True):
                group["lr"] = peak
            self._scheduler = _require_steps(self._make(stand_in))
        assert self._scheduler is not None
        if len(self._scheduler.optimizer.param_groups) != len(self._peaks):
            raise RecipeError("scheduler: is for another optimizer: give that as optimizer=, or a function of it")
        names = [
            group.setdefault("name", f"group-{number}") for number, group in enumerate(optimizer.param_groups) if number
        ]
        return {name: functools.partial(self.factor, number) for number, name in enumerate(names, 1)}

    def factor(self, group: int, step: int) -> float:
        """Return the factor on the peak rate of a group at update `step`."""
        assert self._scheduler is not None
        while len(self._rates) <= step:
            if self._rates:
                self._scheduler.step()
            self._rates.append([float(each["lr"]) for each in self._scheduler.optimizer.param_groups])
        peak = self._peaks[group]
        return self._rates[step][group] / peak if peak else 0.0

    def _on_stand_in(self, scheduler: LRScheduler) -> LRScheduler:
        """Return a copy of a scheduler as it is now, on a stand-in of its optimizer."""
        _require_steps(scheduler)
        try:
            return copy.deepcopy(scheduler, {id(scheduler.optimizer): _Groups(scheduler.optimizer)})
        except TypeError as error:
            raise RecipeError(f"scheduler: cannot be copied ({error}): give a function of the optimizer") from error


def _require_steps(scheduler: object) -> LRScheduler:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise RecipeError("scheduler: ReduceLROnPlateau goes by a metric, and a run by the step alone: give another")
    if not isinstance(scheduler, LRScheduler):
        raise RecipeError(f"scheduler: gave a {type(scheduler).__name__}: must be a scheduler of torch")
    return scheduler
