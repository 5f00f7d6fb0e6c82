"""The loss on held-out tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from llmx.data.batches import held_out_batches
from llmx.errors import DataError
from llmx.train.device import autocast, to_device

if TYPE_CHECKING:
    from llmx.assembly import Run


def evaluate(run: Run) -> tuple[float, float]:
    """Return the mean loss over the held-out tokens that count, in nats per token, and in bits per byte of text.

    Draws no random number and changes no state of the run.

    Raises:
        DataError: no held-out token counts.
    """
    assert run.held_out is not None
    module = run.module
    module.eval()
    total, count = 0.0, 0
    with torch.no_grad(), autocast(run.precision, run.device):
        rows = held_out_batches(run.held_out, run.sizes.sequence_length, run.sizes.micro_batch, run.recipe.eval.tokens)
        for batch in rows:
            total += float(run.objective(run.model, to_device(batch, run.device)))
            count += batch.count
    module.train()
    if not count:
        raise DataError("data: no held-out token can be predicted: raise data.held_out, or set it to 0")
    loss = total / count
    tokens_per_byte = run.held_out.tokens / max(1, run.held_out.text_bytes)
    return loss, loss * tokens_per_byte / math.log(2)
