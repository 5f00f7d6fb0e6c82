"""Linear layers for inference, their weights laid out for the product that reads them.

Shapes: `M` rows, `K` input features, `N` output features, `G` input features that share a scale.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32
"""Input features of an int4 weight that share a scale and an offset, as in llama.cpp's q4 types."""

BLOCK = 64
"""Output features the int4 product holds side by side where vectors are 512 bits long; fewer are filled up with 0."""

FEW_ROWS = 64
"""Up to so many rows, int4 weights are unpacked in registers; for more, to bf16 once for all of them."""

STREAMS = 4
"""Places of a weight that a compiled product of one row reads at once: with one, a processor waits for memory half of
the time; with eight it is no faster than with four, and takes longer to compile."""

PIECE = 1024
"""Output features that are packed or unpacked at once: what is made of them meanwhile stays small."""

REFITS = 2
"""Times that scale and offset are fitted anew to what their group was rounded to: two take 6% off the error that the
range from least to most leaves, further ones next to nothing."""


class PackedLinear(nn.Module):
    """A linear layer for inference that holds no parameter. It is stored by what it was made from, never by itself.

    Attributes:
        held: the weight, in whatever layout.
        rows_alone: a batch's rows do not depend on each other in one product, as `llmx.nn.packed` proved.
    """

    held: Tensor

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_NK.shape
        self.held_bias = bias_N
        self.rows_alone = False

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the weight. Neither the size of the first axis nor what else stands there alters a row."""
        if len(x) == 1 or (self.rows_alone and x.numel() == len(x) * self.in_features):
            return self.product(x)
        return torch.cat([self.product(row) for row in torch.split(x, 1)])

    def product(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def region(self) -> tuple[int, int]:
        """Return where the weight lies in memory, and its bytes."""
        if not self.held.is_mkldnn:
            return self.held.data_ptr(), self.held.nbytes
        return torch.ops.mkldnn.data_ptr(self.held), torch.ops.mkldnn._nbytes(self.held)

    def nbytes(self) -> int:
        """Return the bytes of the weight and of its scales."""
        beside = (each for each in vars(self).values() if isinstance(each, Tensor) and each is not self.held)
        return self.region()[1] + sum(each.nbytes for each in beside)


class PlainLinear(PackedLinear):
    """The weight as it is, for torch's own product, or for torch.compile to read."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        self.held = weight_NK

    def product(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() or x.numel() > self.in_features:
            return F.linear(x, self.held, self.held_bias)
        y = _side_by_side(x, self.held).to(x.dtype)
        return y if self.held_bias is None else y + self.held_bias


def _side_by_side(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Return the product of one row in fp32, as sums that the compiler puts into one loop, which reads them side by
    side."""
    outputs = len(weight_NK)
    x_K = x.flatten().float()  # a sum over thousands of bf16 has no digits left
    parts = torch.split(weight_NK, [outputs // STREAMS] * STREAMS + [outputs % STREAMS])
    y_N = torch.cat([(part_nK.float() * x_K).sum(-1) for part_nK in parts if len(part_nK)])
    return y_N.view(*x.shape[:-1], outputs)


class BlockedLinear(PackedLinear):
    """bf16 in the layout of oneDNN: a product reads memory at its full speed, where a plain weight is copied first."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        self.held = torch.ops.mkldnn._reorder_linear_weight(weight_NK, 1)

    def product(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.held, self.held_bias, "none", [], ""))


class Int8Linear(PackedLinear):
    """int8 with a scale for each output feature; each row of the input is brought to int8 by its own largest value."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        q_NK, scale_N = to_int8(weight_NK)
        self.scale_N = scale_N / 127  # rows are scaled to -127..127 of their largest value
        self.zero_N = torch.zeros(self.out_features, dtype=torch.int32)
        self.held = torch.ops.onednn.qlinear_prepack(q_NK, None)

    def product(self, x: Tensor) -> Tensor:
        rows_MK = x.flatten(0, -2).float()
        largest_M1 = rows_MK.abs().amax(-1, keepdim=True)
        q_MK = (rows_MK / largest_M1).mul_(127).round_().to(torch.int8)  # a row of 0: anything, and times 0 below
        y_MN = torch.ops.onednn.qlinear_pointwise(
            q_MK, 1.0, 0, self.held, self.scale_N, self.zero_N, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(largest_M1)
        y = cast(Tensor, y_MN.to(x.dtype).view(*x.shape[:-1], self.out_features))
        return y if self.held_bias is None else y + self.held_bias


class PlainInt8Linear(PackedLinear):
    """int8 with a scale for each output feature, as it is, for torch.compile to read; the input stays in its type. For
    more than one row the weight is brought to bf16, which holds an int8 exactly."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        self.held, self.scale_N = to_int8(weight_NK)

    def product(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and x.numel() == self.in_features:
            y = _side_by_side(x, self.held)
        else:
            y = torch.cat([F.linear(x, piece_nK.to(x.dtype)) for piece_nK in torch.split(self.held, PIECE)], -1)
        y = (y * self.scale_N).to(x.dtype)
        return y if self.held_bias is None else y + self.held_bias


class Int4Linear(PackedLinear):
    """int4 with a scale and an offset for each group of 32 input features: (q - 8) * scale + offset."""

    def __init__(self, weight_NK: Tensor, bias_N: Tensor | None) -> None:
        super().__init__(weight_NK, bias_N)
        packed, scales = [], []
        for piece_NK in torch.split(weight_NK, PIECE):  # an int4 in the making takes 40 bytes
            q_NK, scales_GN2 = to_int4(F.pad(piece_NK, (0, 0, 0, -len(piece_NK) % BLOCK)))
            packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(q_NK, 1))
            scales.append(scales_GN2)
        self.held, self.scales_GN2 = torch.cat(packed), torch.cat(scales, 1)

    def product(self, x: Tensor) -> Tensor:
        rows_MK = x.flatten(0, -2)
        if len(rows_MK) <= FEW_ROWS or not _blocks_are_known():
            y_MN = torch.ops.aten._weight_int4pack_mm_for_cpu(rows_MK, self.held, GROUP, self.scales_GN2)
        else:
            pieces = range(0, len(self.held), PIECE)
            y_MN = torch.cat([rows_MK @ self._unpacked(slice(start, start + PIECE)) for start in pieces], -1)
        y = cast(Tensor, y_MN[:, : self.out_features].reshape(*x.shape[:-1], self.out_features))
        return y if self.held_bias is None else y + self.held_bias

    def _unpacked(self, outputs: slice) -> Tensor:
        """Return the bf16 weight of some output features, `[K, n]`: of a block of 64, the low halves of 32 bytes hold
        the first 32, the high halves the others, for one input feature after another."""
        q_bKn = _nibbles(self.held[outputs], self.in_features)
        q_GKn = q_bKn.transpose(0, 1).reshape(-1, GROUP, q_bKn.shape[0] * BLOCK).bfloat16().sub_(8)
        scale_Gn, offset_Gn = self.scales_GN2[:, outputs].unbind(-1)
        return q_GKn.mul_(scale_Gn[:, None]).add_(offset_Gn[:, None]).flatten(0, 1)


def to_int8(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight in int8 and its scales, `[N]`; a row of 0 has the scale 1."""
    scale_N1 = weight_NK.abs().amax(1, keepdim=True).float() / 127
    scale_N1 = torch.where(scale_N1 == 0, 1.0, scale_N1)
    q_NK = torch.empty(weight_NK.shape, dtype=torch.int8, device=weight_NK.device)
    for piece, scale, q in zip(*(torch.split(each, PIECE) for each in (weight_NK, scale_N1, q_NK)), strict=True):
        q.copy_((piece / scale).round_())
    return q_NK, scale_N1[:, 0]


def to_int4(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight in int4 (int32, 0..15) and its bf16 scales and offsets, `[K/G, N, 2]`."""
    groups_NGg = weight_NK.float().view(len(weight_NK), -1, GROUP)
    low, high = groups_NGg.amin(-1, keepdim=True), groups_NGg.amax(-1, keepdim=True)
    best = _rounded(groups_NGg, (high - low) / 15, low + 8 * (high - low) / 15)
    for _ in range(REFITS):
        tried = _rounded(groups_NGg, *_fitted(groups_NGg, best[3] - 8))
        better_NG1 = tried[0] < best[0]
        best = [torch.where(better_NG1, new, old) for new, old in zip(tried, best, strict=True)]
    _, scale, offset, q_NGg = best
    scales_NG2 = torch.cat((scale, offset), -1).bfloat16()
    return q_NGg.flatten(1).int(), scales_NG2.transpose(0, 1).contiguous()


def _rounded(groups: Tensor, scale: Tensor, offset: Tensor) -> list[Tensor]:
    """Return the squared error, scale and offset in bf16, and int4 of groups."""
    scale, offset = scale.bfloat16().float(), offset.bfloat16().float()
    scale = torch.where(scale == 0, 1.0, scale)
    q = ((groups - offset) / scale).round_().add_(8).clamp_(0, 15)
    error = (q - 8).mul_(scale).add_(offset).sub_(groups).square_().sum(-1, keepdim=True)
    return [error, scale, offset, q]


def _fitted(groups: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and offset with the least squared error of steps * scale + offset."""
    mean_step = steps.mean(-1, keepdim=True)
    apart = steps - mean_step
    scale = (apart * groups).sum(-1, keepdim=True) / apart.square().sum(-1, keepdim=True).clamp_min(1e-9)
    return scale, groups.mean(-1, keepdim=True) - scale * mean_step


def _nibbles(held: Tensor, inputs: int) -> Tensor:
    """Return what int4 weights lie in packed blocks, `[N/64, K, 64]`."""
    bytes_bKn = held.view(-1, inputs, BLOCK // 2)
    return torch.cat((bytes_bKn & 15, bytes_bKn >> 4), -1)


@cache
def _blocks_are_known() -> bool:
    """Return whether this processor's int4 weights lie as `_nibbles` reads them; another's lie in other blocks."""
    q_NK = torch.randint(16, (2 * BLOCK, GROUP), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    held = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q_NK, 1)
    return torch.equal(_nibbles(held, GROUP).transpose(1, 2).flatten(0, 1).int(), q_NK)
