"""Rotary position embedding (Su et al. 2021), half-split as in the Hugging Face layout, and its extension YaRN."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor


@frozen
class Yarn:
    """How a model sees beyond the context it was trained with (Peng et al. 2023, YaRN).

    Attributes:
        factor: how many times the original context.
        original_context: tokens the model was trained to see.
        beta_fast: a pair that turns at least this often within the original context keeps its frequency.
        beta_slow: one that turns at most this often has it divided by `factor`; those between are blended.
        attention_factor: scale of the tables; None is the paper's 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    @property
    def scale(self) -> float:
        """What cos and sin are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0

    def stretched(self, frequency_H: Tensor, head_width: int, theta: float) -> Tensor:
        """Return the frequencies for the longer context."""
        low = max(math.floor(self._pair_turning(self.beta_fast, head_width, theta)), 0)
        high = min(math.ceil(self._pair_turning(self.beta_slow, head_width, theta)), head_width - 1)
        span = (high - low) or 0.001  # as the reference does: a ramp of no width is a step
        pair = torch.arange(head_width // 2, device=frequency_H.device, dtype=torch.float32)
        keep = 1 - ((pair - low) / span).clamp(0, 1)
        return (frequency_H / self.factor) * (1 - keep) + frequency_H * keep

    def _pair_turning(self, turns: float, head_width: int, theta: float) -> float:
        """Return which pair, counted with fractions, turns so often within the original context."""
        return head_width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))


def rotary_tables(
    positions_BT: Tensor, head_width: int, theta: float, *, yarn: Yarn | None = None, as_published: bool = False
) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each `[B, 1, T, head_width / 2]` in fp32.

    Made for each forward rather than held in a buffer: a model built on the meta device then needs nothing but its
    weights, and the cost is one product for all blocks.

    Args:
        yarn: frequencies and scale for a longer context.
        as_published: frequencies as 1 / theta^(i/H), which the published models were trained with, and not as
            theta^(-i/H): they differ in the last bit, and that is 0.002 rad at position 40,000. False keeps the numbers
            of TinyLLM.
    """
    half = torch.arange(0, head_width, 2, device=positions_BT.device, dtype=torch.float32)
    published = as_published or yarn is not None
    frequency_H = 1.0 / (theta ** (half / head_width)) if published else theta ** (-half / head_width)
    if yarn is None:
        angle_BTH = positions_BT[..., None].float() * frequency_H
        return angle_BTH.cos()[:, None], angle_BTH.sin()[:, None]
    angle_BTH = positions_BT[..., None].float() * yarn.stretched(frequency_H, head_width, theta)
    return (angle_BTH.cos() * yarn.scale)[:, None], (angle_BTH.sin() * yarn.scale)[:, None]


def whole_tables(tables: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the tables for inference, `[B, 1, T, H]`: with them a rotation is three operations, the same to the bit,
    and nothing is brought to a type in every block."""
    cos, sin = (table.to(dtype) for table in tables)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x_BNTH: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x[i], x[i + H/2]) by its position's angle; the type of `x` is kept. The tables are those of
    `rotary_tables`, or for inference of `whole_tables`."""
    cos, sin = (table.to(x_BNTH.dtype) for table in tables)
    if cos.shape[-1] == x_BNTH.shape[-1]:
        return torch.addcmul(x_BNTH * cos, x_BNTH.roll(x_BNTH.shape[-1] // 2, -1), sin)
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula, and cannot see into a function
        left, right = x_BNTH.chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    y_BNTH: Tensor = _Rotation.apply(x_BNTH, cos, sin)  # type: ignore[no-untyped-call]
    return y_BNTH


class _Rotation(torch.autograd.Function):
    """The products go straight to where they belong, and nothing but the tables is kept: back is by the angle's
    negative."""

    @staticmethod
    def forward(ctx: Any, x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_BNTH, cos, sin, 1, x_BNTH.new_empty(x_BNTH.shape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        batch, heads, tokens, width = grads[0].shape
        grad_BTNH = grads[0].new_empty(batch, tokens, heads, width)  # as the projection it came from lies
        return _turn(grads[0], cos, sin, -1, grad_BTNH.transpose(1, 2)), None, None


def _turn(x_BNTH: Tensor, cos: Tensor, sin: Tensor, sign: int, y_BNTH: Tensor) -> Tensor:
    """Write x, turned by `sign` times the angle, to y, and return y."""
    left, right = x_BNTH.chunk(2, dim=-1)
    y_left, y_right = y_BNTH.chunk(2, dim=-1)
    torch.mul(left, cos, out=y_left).addcmul_(right, sin, value=-sign)
    torch.mul(right, cos, out=y_right).addcmul_(left, sin, value=sign)
    return y_BNTH
