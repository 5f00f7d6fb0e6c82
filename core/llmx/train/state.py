"""Where a run stands."""

from __future__ import annotations

from attrs import define, field


@define
class TrainState:
    """The numbers of a run that a checkpoint keeps.

    Attributes:
        step: updates done.
        tokens: tokens read, over all ranks.
        best_loss: lowest validation loss so far, nats per token; None before the first evaluation.
        best_step: the step it was measured at.
        stop_reason: why `run.stop` ended the run at this step, if it did.
        epoch_steps: steps at the ends of epochs whose checkpoints are kept.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    stop_reason: str | None = None
    epoch_steps: list[int] = field(factory=list)
