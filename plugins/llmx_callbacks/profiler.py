"""Where the time of a step goes: a trace of some steps and a table of their operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.profiler import ProfilerActivity, profile, schedule

from llmx import RecipeError, hookimpl
from llmx_callbacks.terminal import say

if TYPE_CHECKING:
    import torch

    from llmx.assembly import Run
    from llmx_callbacks import ProfilerOptions


class Profiler:
    """Profiles rank 0 for some steps, once, and writes what it saw to `profile/` of the run folder.

    A run that ends within those steps, by a fault too, has the steps that were whole.
    """

    def __init__(self, options: ProfilerOptions, run: Run) -> None:
        self.options = options
        wanted = options.wait_steps + options.active_steps
        if wanted > run.sizes.steps:
            raise RecipeError(
                f"callback.profiler: wait_steps + active_steps = {wanted}: more than the run's {run.sizes.steps} steps"
            )
        self.folder = run.folder / "profile"
        self.first = self.last = 0
        self._sort_by = "self_cpu_time_total" if run.device.type == "cpu" else "self_device_time_total"
        self._activities = activities(run.device)
        self._profile: profile | None = None
        self._done = True  # until the run begins

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.first = run.state.step + self.options.wait_steps + 1  # counted from here, also in a resumed run
        self.last = self.first + self.options.active_steps - 1
        self._done = not run.world.main

    @hookimpl(trylast=True)
    def llmx_before_step(self, run: Run) -> None:
        if not self._done and run.state.step + 1 == self.first - 1:  # the last step of waiting warms it up
            plan = schedule(wait=0, warmup=1, active=self.options.active_steps, repeat=1)
            self._profile = profile(activities=self._activities, schedule=plan)
            self._profile.start()

    @hookimpl(tryfirst=True)
    def llmx_after_step(self, run: Run) -> None:
        if self._profile is None:
            return
        if run.state.step == self.last:
            self._finish(run)
        else:
            self._profile.step()

    @hookimpl
    def llmx_after_run(self, run: Run) -> None:
        self._finish(run)

    @hookimpl
    def llmx_run_failed(self, run: Run) -> None:
        self._finish(run)

    def _finish(self, run: Run) -> None:
        """End the profile and write it, or say why there is none."""
        if self._done:
            return
        self._done = True
        found, self._profile = self._profile, None
        if found is not None:
            found.stop()
        last = min(run.state.step, self.last)
        if found is None or last < self.first:
            say(
                run, f"profiler: no trace: the run ended after step {run.state.step}, before step {self.first} was done"
            )
            return
        self.folder.mkdir(exist_ok=True)
        trace, table = self.folder / f"trace-{self.first}-{last}.json", self.folder / "top.txt"
        found.export_chrome_trace(str(trace))
        rows = found.key_averages().table(sort_by=self._sort_by, row_limit=self.options.rows)
        table.write_text(f"steps {self.first} to {last}\n{rows}", encoding="utf-8")
        say(run, f"profiler: wrote steps {self.first} to {last} to {trace} (ui.perfetto.dev shows it) and {table}")


def activities(device: torch.device) -> list[ProfilerActivity]:
    """Return what can be recorded of a run on a device."""
    accelerators = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}
    return [ProfilerActivity.CPU, *([accelerators[device.type]] if device.type in accelerators else [])]
