"""How fast a device goes through a run: one block of the model is timed on it."""

from __future__ import annotations

import time
from typing import Any, cast

import torch
from attrs import frozen
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from llmx.plan.track import Tracker
from llmx.plan.update import Captured, captured_block, tensors_of
from llmx.protocols import Model
from llmx.recipe import Recipe
from llmx.train.device import autocast, peak_flops
from llmx.train.memory import recompute_blocks
from llmx.train.model import meta_model

MOST_FLOPS = {"cpu": 2e10}
MOST_FLOPS_ELSEWHERE = 2e12
"""Operations of one timed pass: a fraction of a second on two cores, and as much as fills an accelerator."""
MOST_BYTES = 512 * 2**20
"""Largest block, with its gradients, that is made to be timed."""
SHARE_OF_PEAK = 0.4
"""Of the best matrix product's rate that training usually reaches, where no block can be timed."""


@frozen
class Pace:
    """Operations a second, and how they were got."""

    flops_per_s: float
    how: str


def measure_pace(recipe: Recipe, vocab_size: int, device: torch.device, precision: str, rows: int, length: int) -> Pace:
    """Time a block's forward and backward pass at the run's shapes, or at fewer tokens where those are many.

    Args:
        rows: of a micro-batch.
        length: tokens of a row.
    """
    model, _ = meta_model(recipe, vocab_size, precision)
    size = sum(t.numel() * t.element_size() * (2 if t.requires_grad else 1) for t in tensors_of(model.blocks()[0]))
    if size > MOST_BYTES:
        rate = SHARE_OF_PEAK * peak_flops(precision, device)
        return Pace(rate, f"{SHARE_OF_PEAK:.0%} of the best matrix product on {device}, for a block is too large")
    per_token = model.flops_per_token(length) / len(model.blocks())
    most = max(16, int(MOST_FLOPS.get(device.type, MOST_FLOPS_ELSEWHERE) / per_token))
    rows = max(1, min(rows, most // length))
    length = min(length, most)
    recompute_blocks(model, recipe.train.checkpointing)
    block, called = captured_block(model, device, precision, rows, length)
    flops = _count(called, model, device, precision)
    seconds = _time(block, called, device, precision)
    how = f"a block's forward and backward of {rows} x {length} tokens took {1000 * seconds:.1f} ms on {device}"
    return Pace(flops / seconds, how)


def _pass(block: nn.Module, called: Captured, device: torch.device, precision: str) -> None:
    args, kwargs = called
    with autocast(precision, device):
        result = block(*args, **kwargs)
    loss = next(each for each in tree_leaves(result) if isinstance(each, Tensor)).sum()
    loss.backward()  # type: ignore[no-untyped-call]


def _count(called: Captured, model: Model, device: torch.device, precision: str) -> float:
    """Return the operations of a pass of the first block, whose tensors stand for others already."""
    first = model.blocks()[0]
    mode = next(each.fake_mode for each in tensors_of(first))  # type: ignore[attr-defined]  # a FakeTensor has it
    assert isinstance(mode, FakeTensorMode)
    with mode, Tracker(()) as tracker:
        _pass(first, _with_gradient(called), device, precision)
    return float(tracker.flops)


def _with_gradient(called: Captured) -> Captured:
    args, kwargs = called
    first = args[0].detach().requires_grad_(True)
    return (first, *args[1:]), kwargs


def _time(block: nn.Module, called: Captured, device: torch.device, precision: str) -> float:
    """Return the seconds of the fastest of three passes of a block with weights of chance."""
    block.to_empty(device=device)
    for each in tensors_of(block):
        each.data.normal_(std=0.02) if each.requires_grad or each.is_floating_point() else each.data.zero_()

    def real(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        made = torch.ones(value.shape, dtype=value.dtype, device=device)
        return made.normal_() if value.is_floating_point() else made

    args, kwargs = _with_gradient(cast(Captured, tree_map(real, called)))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        _pass(block, (args, kwargs), device, precision)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
