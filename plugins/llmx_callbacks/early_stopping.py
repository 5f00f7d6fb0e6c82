"""The end of a run whose metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmx import LlmxError, RecipeError, hookimpl

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_callbacks import EarlyStoppingOptions


class EarlyStopping:
    """Counts evaluations in a row without an improvement; a value that is not finite is none."""

    def __init__(self, options: EarlyStoppingOptions, run: Run) -> None:
        if run.held_out is None:
            raise RecipeError("callback.early-stopping: data.held_out is 0, so there is no evaluation: set it above 0")
        self.options = options
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        self._of_step: dict[str, float] = {}

    @hookimpl(trylast=True)  # what other listeners add to the metrics can be watched too
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self._of_step = metrics

    @hookimpl(trylast=True)
    def llmx_after_eval(self, run: Run, metrics: dict[str, float]) -> None:
        value = self._value({**self._of_step, **metrics})
        if self._improved(value):
            self.best, self.best_step, self.waited = value, run.state.step, 0
            return
        self.waited += 1
        if self.waited >= self.options.patience and run.state.step < run.sizes.steps:
            run.stop(self._reason(value))

    def _value(self, known: Mapping[str, float]) -> float:
        """Return the metric that is watched.

        Raises:
            LlmxError: the run has none of that name.
        """
        name = self.options.monitor
        if name not in known:
            raise LlmxError(
                f"callback.early-stopping.monitor = {name!r}: no such metric; this run has {', '.join(sorted(known))}"
            )
        return known[name]

    def _improved(self, value: float) -> bool:
        if self.best is None:
            return value == value  # NaN is no value to begin with
        if self.options.mode == "min":
            return value < self.best - self.options.min_delta
        return value > self.best + self.options.min_delta

    def _reason(self, value: float) -> str:
        name, delta = self.options.monitor, self.options.min_delta
        by = f" by more than {delta:g}" if delta else ""
        best = f"best {self.best:.4f} at step {self.best_step}, " if self.best is not None else ""
        return f"{name} did not improve{by} in {self.waited} evaluations: {best}now {value:.4f}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
