"""Keys and values of tokens already seen, so that a new token costs one position and not all of them."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """One pair of buffers for each block, filled from the left.

    A buffer is made by the first keys that come, in their type and on their device: a model may compute in another type
    than its weights have.

    Args:
        blocks: number of blocks.
        shape_BNSH: batch, key-value heads, most tokens, head width.
    """

    def __init__(self, blocks: int, shape_BNSH: tuple[int, int, int, int]) -> None:
        self.length = 0
        self.capacity = shape_BNSH[2]
        self._shape = shape_BNSH
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * blocks

    def extend(self, block: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one block and return all of its keys and values, `[B, N, length + T, H]`.

        Raises:
            ValueError: the tokens do not fit.
        """
        end = self.length + k_BNTH.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} tokens cannot hold {end}")
        held = self._held[block]
        if held is None:
            held = self._held[block] = (self._empty(k_BNTH), self._empty(v_BNTH))
        for buffer, new in zip(held, (k_BNTH, v_BNTH), strict=True):
            buffer[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` as held, after every block was extended by them."""
        self.length += tokens

    def _empty(self, like: Tensor) -> Tensor:
        return torch.empty(self._shape, dtype=like.dtype, device=like.device)
