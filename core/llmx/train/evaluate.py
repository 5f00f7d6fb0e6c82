"""The loss on held-out tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from llmx.train.device import autocast, to_device
from llmx.train.objective import count_of, take_figures

if TYPE_CHECKING:
    from llmx.assembly import Run


class Measured(NamedTuple):
    """What an evaluation found.

    Attributes:
        loss: mean over what the objective counts: in nats per token where that are tokens.
        bits_per_byte: the same in bits per byte of text; None where the objective counts something else than tokens.
        figures: means of what else the objective measured, by their names in the metrics.
    """

    loss: float
    bits_per_byte: float | None
    figures: dict[str, float]


def evaluate(run: Run) -> Measured:
    """Measure the model on the held-out rows. Draws no random number and changes no state of the run."""
    assert run.held_out is not None
    module = run.module
    module.eval()
    total, count = 0.0, 0.0
    with torch.no_grad(), autocast(run.precision, run.device):
        batches = run.held_out.batches(run.sizes.micro_batch, run.recipe.eval.tokens or None)
        for number, batch in enumerate(batches):
            if number % run.world.size != run.world.rank:
                continue
            total += float(run.objective(run.model, to_device(batch, run.device)))
            count += count_of(run.objective, batch)
    module.train()
    total, count = run.world.sum(torch.tensor([total, float(count)], dtype=torch.float64, device=run.device)).tolist()
    loss = total / count  # `assemble` has seen that there are some
    figures = take_figures(run, "val", count)
    if hasattr(run.objective, "count"):
        return Measured(loss, None, figures)
    return Measured(loss, loss * run.held_out.predicted / run.held_out.text_bytes / math.log(2), figures)
