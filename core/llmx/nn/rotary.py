"""Rotary position embedding (Su et al. 2021), half-split as in the Hugging Face layout."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(positions_BT: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each `[B, 1, T, head_width / 2]` in fp32.

    Made for each forward rather than held in a buffer: a model built on the meta device then needs nothing but its
    weights, and the cost is one product for all blocks.
    """
    half = torch.arange(0, head_width, 2, device=positions_BT.device, dtype=torch.float32)
    frequency = theta ** (-half / head_width)
    angle_BTH = positions_BT[..., None].float() * frequency
    return angle_BTH.cos()[:, None], angle_BTH.sin()[:, None]


def rotate(x_BNTH: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x[i], x[i + H/2]) by its position's angle; the type of `x` is kept."""
    cos, sin = (table.to(x_BNTH.dtype) for table in tables)
    left, right = x_BNTH.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
