"""Keys and values of tokens already seen, so that a new token costs one position and not all of them."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """One pair of buffers for each block, filled from the left.

    Args:
        blocks: number of blocks.
        shape_BNSH: batch, key-value heads, most tokens, head width.
    """

    def __init__(
        self, blocks: int, shape_BNSH: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.length = 0
        self.capacity = shape_BNSH[2]
        self._keys = [torch.empty(shape_BNSH, dtype=dtype, device=device) for _ in range(blocks)]
        self._values = [torch.empty(shape_BNSH, dtype=dtype, device=device) for _ in range(blocks)]

    def extend(self, block: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one block and return all of its keys and values, `[B, N, length + T, H]`.

        Raises:
            ValueError: the tokens do not fit.
        """
        end = self.length + k_BNTH.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} tokens cannot hold {end}")
        self._keys[block][:, :, self.length : end] = k_BNTH
        self._values[block][:, :, self.length : end] = v_BNTH
        return self._keys[block][:, :, :end], self._values[block][:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` as held, after every block was extended by them."""
        self.length += tokens
