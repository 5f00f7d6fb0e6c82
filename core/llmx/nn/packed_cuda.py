"""int8 and int4 weights on CUDA, by the products that torch has for them.

Shapes: `M` rows, `K` input features, `N` output features, `G` input features that share a scale.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from llmx.nn.packed_formats import GROUP, PackedLinear, to_int4, to_int8

TILES = 8
"""Tiles of 16 input features that the int4 product reads in one go: its widest."""


class CudaInt8Linear(PackedLinear):
    """int8 with a scale for each output feature; the input stays in bf16."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        self.held, scale_N = to_int8(weight_NK)
        self.scale_N = scale_N.bfloat16()

    def product(self, x: Tensor) -> Tensor:
        y_MN = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2), self.held, self.scale_N)
        y = cast(Tensor, y_MN.view(*x.shape[:-1], self.out_features))
        return y if self.held_bias is None else y + self.held_bias


class CudaInt4Linear(PackedLinear):
    """int4 with a scale and an offset for each group of 32 input features; the input stays in bf16."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        q_NK, self.scales_GN2 = to_int4(weight_NK)
        pairs = (q_NK[:, ::2] << 4 | q_NK[:, 1::2]).to(torch.uint8)
        self.held = torch.ops.aten._convert_weight_to_int4pack(pairs, TILES)

    @staticmethod
    def takes(weight_NK: Tensor) -> bool:
        """Return whether the product exists for a weight of this shape."""
        outputs, inputs = weight_NK.shape
        return outputs % 8 == 0 and inputs % (16 * TILES) == 0

    def product(self, x: Tensor) -> Tensor:
        y_MN = torch.ops.aten._weight_int4pack_mm(x.flatten(0, -2), self.held, GROUP, self.scales_GN2)
        y = cast(Tensor, y_MN.view(*x.shape[:-1], self.out_features))
        return y if self.held_bias is None else y + self.held_bias
