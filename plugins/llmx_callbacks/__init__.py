"""Callbacks: averaged weights, early stopping, texts on the way, a profile, and a search for the learning rate."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from llmx import Component, hookimpl

_COUNT: Any = validators.ge(1)
_SHARE: Any = [validators.ge(0), validators.lt(1)]
_RATE: Any = [validators.gt(0), validators.lt(float("inf"))]


@frozen
class EmaOptions:
    decay: float = field(default=0.999, validator=_SHARE)
    """Share of the average that stays at an update; the rest comes from the new weights. 0.999 looks back over about
    1,000 updates; runs of 100,000 updates and more often have 0.9999."""
    warmup: bool = True
    """Use min(decay, (1 + t) / (10 + t)) after t updates, as TensorFlow's ExponentialMovingAverage does: the average
    looks back over about a ninth of the run so far and forgets the weights that the run began with."""


@frozen
class EarlyStoppingOptions:
    monitor: str = "val/loss"
    """Name of the metric to watch: one of an evaluation, or of the step before it. The default is what the best
    checkpoint is chosen by."""
    patience: int = field(default=3, validator=_COUNT, metadata={"unit": "evaluations"})
    """Evaluations in a row without an improvement that end the run. One alone may be noise; of the ten evaluations
    that a run has by default, three are a good part."""
    min_delta: float = field(default=0.0, validator=[validators.ge(0), validators.lt(float("inf"))])
    """Least change that is an improvement, in the metric's own unit (nats per token for val/loss). Any by default."""
    mode: Literal["min", "max"] = "min"
    """Whether the metric should fall or rise: a loss falls."""


@frozen
class SamplesOptions:
    every: int | None = field(default=None, validator=validators.optional(_COUNT), metadata={"unit": "steps"})
    """Steps between texts. Unset: a tenth of the run, as for evaluations."""
    max_new_tokens: int | None = field(default=None, validator=validators.optional(_COUNT), metadata={"unit": "tokens"})
    """Most tokens to add to each prompt. Unset: `generate.max_new_tokens`."""


@frozen
class ProfilerOptions:
    wait_steps: int = field(default=3, validator=_COUNT)
    """Steps before the trace, from where the run starts or resumes; in the last of them the profiler itself warms up.
    The first steps are no measure: memory is claimed, kernels are chosen, code is compiled."""
    active_steps: int = field(default=3, validator=_COUNT)
    """Steps in the trace, with evaluations and texts that fall between them. A step of a small model is some thousand
    events, and viewers bear about a million."""
    rows: int = field(default=30, validator=_COUNT, metadata={"unit": "operations"})
    """Operations in the table `top.txt`, those that take longest first: about a screen."""


@frozen
class LrFinderOptions:
    min_lr: float = field(default=1e-6, validator=_RATE)
    """Learning rate of the first step, for the optimizer's first parameter group; the others keep their ratio to it.
    At the default hardly any model learns."""
    max_lr: float = field(default=1.0, validator=_RATE)
    """Learning rate of the last step. At the default every loss has stopped falling."""
    smoothing: float = field(default=0.9, validator=_SHARE)
    """Share of the past in the smoothed loss, step by step: at 0.9 about ten steps count, at 0 one does."""

    def __attrs_post_init__(self) -> None:
        if self.max_lr <= self.min_lr:
            raise ValueError(f"max_lr = {self.max_lr} must be above min_lr = {self.min_lr}")


@hookimpl
def llmx_callbacks() -> list[Component]:
    return [
        Component(
            name="ema",
            target="llmx_callbacks.ema:Ema",
            options=EmaOptions,
            summary="evaluates and exports an exponential moving average of the weights",
        ),
        Component(
            name="early-stopping",
            target="llmx_callbacks.early_stopping:EarlyStopping",
            options=EarlyStoppingOptions,
            summary="ends the run when a metric no longer improves",
        ),
        Component(
            name="samples",
            target="llmx_callbacks.samples:Samples",
            options=SamplesOptions,
            summary="prints texts the model makes on the way, and keeps them in samples.jsonl",
        ),
        Component(
            name="profiler",
            target="llmx_callbacks.profiler:Profiler",
            options=ProfilerOptions,
            summary="a trace of some steps for chrome://tracing or Perfetto, and a table of the operations",
        ),
        Component(
            name="lr-finder",
            target="llmx_callbacks.lr_finder:LrFinder",
            options=LrFinderOptions,
            summary="spends the run on a ramp of the learning rate and suggests one",
        ),
    ]
