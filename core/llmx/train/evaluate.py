"""The loss on held-out tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from llmx.train.device import autocast, to_device

if TYPE_CHECKING:
    from llmx.assembly import Run


def evaluate(run: Run) -> tuple[float, float]:
    """Return the mean loss over the held-out tokens that count, in nats per token, and in bits per byte of text.

    Draws no random number and changes no state of the run.

    """
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
            count += batch.count
    module.train()
    total, count = run.world.sum(torch.tensor([total, float(count)], dtype=torch.float64, device=run.device)).tolist()
    loss = total / count  # `assemble` has seen that there are some
    return loss, loss * run.held_out.predicted / run.held_out.text_bytes / math.log(2)
