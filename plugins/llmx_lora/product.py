"""Products with frozen weights, and the change of low rank beside them, that keep little for the backward.

Shapes: `M` positions, `I` inputs, `O` outputs, `R` rank.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmx.errors import RecipeError


class Base(Protocol):
    """A frozen linear layer whose weight can be had densely."""

    bias: Tensor | None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return `weight_OI`, made anew where it is packed."""
        ...


def has_dense(layer: nn.Module) -> bool:
    """Return whether the weight of a frozen layer can be had, so that the fused product works on it."""
    return type(layer) is nn.Linear or hasattr(layer, "dense")


def dense(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight of a frozen linear layer, `weight_OI`, in a type.

    Raises:
        RecipeError: it was packed for generating, and cannot be had any more.
    """
    if not has_dense(layer):
        raise RecipeError("adapter lora: dora needs the weights as they are stored: leave weights out, or merge first")
    weight_OI: Tensor = layer.weight.detach().to(dtype) if type(layer) is nn.Linear else layer.dense(dtype)
    return weight_OI


def step_dtype(x: Tensor) -> torch.dtype:
    """Return the type that a product with x has: autocast's where that is on."""
    kind = x.device.type
    cast = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Keep the types of products as they are written, on the device of x."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def product_dtype(layer: Any, x: Tensor) -> torch.dtype:
    """Return the type in which a product with a frozen layer is made: its own where it has one."""
    return getattr(layer, "product_dtype", None) or step_dtype(x)


class FrozenProduct(torch.autograd.Function):
    """x W^T with a packed W, which is unpacked for the forward and again for the backward: nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Base, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.dtype, ctx.x_dtype = layer, dtype, x.dtype
        with no_autocast(x):
            return x.to(dtype) @ layer.dense(dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        with no_autocast(grads[0]):
            return (grads[0] @ ctx.layer.dense(ctx.dtype)).to(ctx.x_dtype), None, None


class LowRankProduct(torch.autograd.Function):
    """x W^T + bias + scale * dropped(x) A^T B^T, with W and bias frozen.

    Keeps x as it came, which layers with one input share, x A^T, which is small, and the places that were dropped.
    Products are in `dtype`; A and B stay in theirs, and so do their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a_RI: Tensor, b_OR: Tensor, layer: Any, scale: float, dropout: float, dtype: torch.dtype
    ) -> Tensor:
        ctx.layer, ctx.dtype, ctx.scale = layer, dtype, scale / (1 - dropout)
        places = draw_places(x, dropout) if dropout else None
        with no_autocast(x):
            x_MI = x.reshape(-1, x.shape[-1]).to(dtype)
            h_MR = (dropped(x_MI, places) @ a_RI.to(dtype).T) * ctx.scale  # not in place: the product may be kept
            bias = None if layer.bias is None else layer.bias.to(dtype)
            y_MO = nn.functional.linear(x_MI, dense(layer, dtype), bias)
            y_MO = torch.addmm(y_MO, h_MR, b_OR.to(dtype).T, out=None if _watched() else y_MO)
        ctx.save_for_backward(x, h_MR, a_RI, b_OR, places)
        return y_MO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h_MR, a_RI, b_OR, places = ctx.saved_tensors
        dtype = ctx.dtype
        with no_autocast(x):
            grad_MO = grads[0].reshape(-1, grads[0].shape[-1]).to(dtype)
            x_MI = dropped(x.reshape(-1, x.shape[-1]).to(dtype), places)
            grad_b_OR = (grad_MO.T @ h_MR).to(b_OR.dtype)
            grad_h_MR = (grad_MO @ b_OR.to(dtype)).mul_(ctx.scale)
            grad_a_RI = (grad_h_MR.T @ x_MI).to(a_RI.dtype)
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x_MI = _zero(grad_h_MR @ a_RI.to(dtype), places)
                grad_x = grad_x_MI.addmm_(grad_MO, dense(ctx.layer, dtype)).view(x.shape).to(x.dtype)
        return grad_x, grad_a_RI, grad_b_OR, None, None, None, None


def _watched() -> bool:
    """Return whether results are kept from outside, as selective checkpointing does: those are not written to."""
    return torch._C._len_torch_dispatch_stack() > 0


def draw_places(x: Tensor, dropout: float) -> Tensor:
    """Return which values of x are dropped, each with the probability `dropout`, as places in x when it is flat.

    They are drawn with replacement, n ln(1 / (1 - p)) of n, so that a share p is met on average: at the usual p several
    times faster than a mask over all of x, and smaller.
    """
    draws = round(-x.numel() * math.log1p(-dropout))
    return torch.randint(x.numel(), (draws,), device=x.device, dtype=torch.int32 if x.numel() < 2**31 else torch.int64)


def dropped(x: Tensor, places: Tensor | None) -> Tensor:
    """Return x with 0 at some places, not scaled up; x itself where there are none."""
    return x if places is None else _zero(x.clone(), places)


def _zero(x: Tensor, places: Tensor | None) -> Tensor:
    """Set values of a contiguous x to 0 in place."""
    if places is not None:
        x.view(-1).index_fill_(0, places.long(), 0)
    return x
