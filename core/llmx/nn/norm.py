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
        self._eps: Tensor | None = None  # as a tensor: a number would be made one by each operation

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if trains and not torch.compiler.is_compiling():  # the compiler cannot see into a function
            y: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return y
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._few_operations(x)
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)  # fp32: squares lose too much in bf16
        return normed.to(x.dtype) * self.weight.to(x.dtype)  # heads in bf16 stay so beside a weight in fp32

    def _few_operations(self, x: Tensor) -> Tensor:
        """As torch's own, which on a CPU is twice as many operations: for one token they are what takes time."""
        if self._eps is None:
            self._eps = torch.tensor(self.eps)
        x32 = x.float()
        size = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
        factor = torch.addcmul(self._eps, size, size, value=1 / x.shape[-1]).rsqrt_()
        y = (x32 * factor).to(x.dtype)
        return y.mul_(self.weight if self.weight.dtype == x.dtype else self.weight.to(x.dtype))


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
