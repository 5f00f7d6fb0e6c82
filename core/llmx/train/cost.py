"""What a run's loss becomes when its adapters are merged into a base that was quantised."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, cast

import attrs
import torch
from torch import nn

from llmx.train.evaluate import evaluate
from llmx.train.parallel import World

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.protocols import Model

CPU = torch.device("cpu")
HOST_TOKENS = 8192
"""Most held-out tokens that are read on the host, where a model is that does not fit the accelerator."""
ROOM = 1.25
"""Free memory that a model needs there, in sizes of its weights: a micro-batch needs some too."""


def tell_cost(run: Run, model: Model) -> None:
    """Say the held-out loss of a merged model, which lies on the host, beside that of the run; both on the same rows.

    An objective of pairs is left out: it measures against the model that the run began with.
    """
    if run.held_out is None or getattr(run.objective, "pairs", False):
        return
    here = attrs.evolve(run, world=World())  # the other ranks are not here
    on_host = run.device.type == "cpu" or not _fits(model, run.device)
    if on_host and run.device.type != "cpu":
        most = min(run.recipe.eval.tokens or HOST_TOKENS, HOST_TOKENS)
        recipe = attrs.evolve(run.recipe, eval=attrs.evolve(run.recipe.eval, tokens=most))
        here = attrs.evolve(here, recipe=recipe)
        sys.stderr.write("llmx: the merged model does not fit the device: measuring it on the CPU\n")
    before = evaluate(here).loss
    device = CPU if on_host else run.device
    module = cast(nn.Module, model).to(device)  # in place
    after = evaluate(attrs.evolve(here, model=model, device=device)).loss
    module.to(CPU)
    sys.stderr.write(f"llmx: merged into the quantised base, the held-out loss is {after:.4f}, before {before:.4f}\n")


def _fits(model: Model, device: torch.device) -> bool:
    """Return whether a device that is not the host has room for a model beside what is there."""
    if device.type != "cuda":
        return False
    module = cast(nn.Module, model)
    size = sum(each.nbytes for each in itertools.chain(module.parameters(), module.buffers()))
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] > ROOM * size
