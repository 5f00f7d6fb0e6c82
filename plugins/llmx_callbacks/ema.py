"""An exponential moving average of the weights, in their place while the run evaluates and exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmx import CheckpointError, hookimpl

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_callbacks import EmaOptions


class Ema:
    """Averages the parameters that are trained; frozen ones and buffers are the run's own all the time.

    The average is in fp32 or better: in bf16 a share of 1 - decay of a change is lost to rounding.
    """

    def __init__(self, options: EmaOptions, run: Run) -> None:
        self.options = options
        self.updates = 0
        self._live = {name: p for name, p in run.module.named_parameters() if p.requires_grad}  # a tied one comes once
        self._average = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._live.items()
        }
        self._moved = False
        self._exchanged = False
        self._kept: dict[str, Tensor] = {}

    # --- the average ------------------------------------------------------------------------------------------------

    @hookimpl(trylast=True)
    def llmx_before_run(self) -> None:
        if self.updates == 0:  # the weights may have come after this object: from a checkpoint or a hook
            for name, parameter in self._live.items():
                self._average[name].copy_(parameter.detach())

    @hookimpl
    def llmx_before_update(self) -> None:
        self._moved = True  # not announced for an update that fp16 skips: the weights stay, and count once

    @hookimpl(tryfirst=True)
    def llmx_after_step(self) -> None:
        if self._moved:
            self._moved = False
            self._update()

    def _update(self) -> None:
        averages = list(self._average.values())
        pairs = zip(self._live.values(), averages, strict=True)
        weights = [parameter.detach().to(average.dtype) for parameter, average in pairs]
        torch._foreach_lerp_(averages, weights, 1 - self._decay())
        self.updates += 1

    def _decay(self) -> float:
        """Return the decay of the next update (the option `warmup` says where it is from)."""
        if not self.options.warmup:
            return self.options.decay
        return min(self.options.decay, (1 + self.updates) / (10 + self.updates))

    # --- in the place of the weights --------------------------------------------------------------------------------

    # last to put the average in and first to take it out: other listeners see the weights that train

    @hookimpl(trylast=True)
    def llmx_before_eval(self) -> None:
        self._put_in()

    @hookimpl(tryfirst=True)
    def llmx_after_eval(self) -> None:
        self._take_out()

    @hookimpl(trylast=True)
    def llmx_before_export(self) -> None:
        self._put_in()

    @hookimpl(tryfirst=True)
    def llmx_after_export(self) -> None:
        self._take_out()

    @hookimpl(tryfirst=True)
    def llmx_run_failed(self) -> None:
        self._take_out()  # a fault within an evaluation leaves the run with its own weights

    @torch.no_grad()
    def _put_in(self) -> None:
        assert not self._exchanged
        self._exchanged = True
        for name, parameter in self._live.items():
            average, weight = self._average[name], parameter.clone()
            parameter.copy_(average)
            if average.dtype == parameter.dtype:  # each in the other's place: one tensor more, not one copy more
                average.copy_(weight)
            else:
                self._kept[name] = weight

    @torch.no_grad()
    def _take_out(self) -> None:
        if not self._exchanged:
            return
        for name, parameter in self._live.items():
            average = self._average[name]
            if name in self._kept:
                parameter.copy_(self._kept.pop(name))
            else:
                weight = average.clone()
                average.copy_(parameter)
                parameter.copy_(weight)
        self._exchanged = False

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        assert not self._exchanged, "a checkpoint of now would take the average for the weights"
        return {"updates": self.updates, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the averages of a checkpoint.

        Raises:
            CheckpointError: they are not of the parameters that this run trains.
        """
        saved = {name: tuple(each.shape) for name, each in state["average"].items()}
        wanted = {name: tuple(each.shape) for name, each in self._average.items()}
        if saved != wanted:
            name = next(name for name in [*wanted, *saved] if saved.get(name) != wanted.get(name))
            raise CheckpointError(
                f"callback.ema: the checkpoint's average does not fit the parameters that are trained, {name!r} for "
                "one: resume with the model and adapters that the run began with, or without ema"
            )
        for name, average in self._average.items():
            average.copy_(state["average"][name])
        self.updates = state["updates"]
        self._exchanged = False  # whoever loads this state has loaded the weights of its step too
        self._kept.clear()
