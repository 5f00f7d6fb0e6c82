"""The gated feed-forward part of a block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.gate_up_proj: nn.Module | None = None  # llmx.nn.packed puts it in the place of the two

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate_up_proj is None:
            down_BTD: Tensor = self.down_proj(gated(self.gate_proj(x_BTD), self.up_proj(x_BTD)))
            return down_BTD
        gate, up = self.gate_up_proj(x_BTD).chunk(2, -1)
        fused_BTD: Tensor = self.down_proj(F.silu(gate).mul_(up))
        return fused_BTD


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up; the backward keeps the two alone."""
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula, and cannot see into a function
        return F.silu(gate) * up
    y: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


class _Gated(torch.autograd.Function):
    """silu(gate) is made again in the backward: autograd would keep it, as large as either."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensors
        grad_gate = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        if ctx.needs_input_grad[1]:
            grad_up = F.silu(gate) * grads[0]
        return grad_gate, grad_up
