"""Root-mean-square layer normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019), over the last axis, computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if trains and not torch.compiler.is_compiling():  # the compiler cannot see into a function
            y: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return y
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)  # fp32: squares lose too much in bf16
        return normed.to(x.dtype) * self.weight.to(x.dtype)  # heads in bf16 stay so beside a weight in fp32


class _RMSNorm(torch.autograd.Function):
    """The same operations; keeps x as it came and one number a row, where autograd would keep three copies of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        factor = x32.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, factor, weight)
        return (x32 * factor).to(x.dtype).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, factor, weight = ctx.saved_tensors
        normed = x.float() * factor
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grads[0].float() * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            grad = (grads[0] * weight.to(x.dtype)).float()
            shared = (grad * normed).mean(-1, keepdim=True)
            grad_x = grad.addcmul_(normed, shared, value=-1).mul_(factor).to(x.dtype)
        return grad_x, grad_weight, None
