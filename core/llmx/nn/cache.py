"""Keys and values of tokens already seen, so that a new token costs one position and not all of them.

Shapes: `B` batch, `T` new tokens, `S` all tokens, `N` query heads, `K` key-value heads, `H` head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_HELD = 256
"""Tokens a buffer is made for at first; it doubles as they come: a long budget costs nothing until it is used."""


class KVCache:
    """One pair of buffers for each block, filled from the left.

    A buffer is made by the first keys that come, in their type and on their device: a model may compute in another type
    than its weights have.

    Args:
        blocks: number of blocks.
        shape_BKSH: batch, key-value heads, most tokens, head width.
    """

    def __init__(self, blocks: int, shape_BKSH: tuple[int, int, int, int]) -> None:
        self.length = 0
        self.capacity = shape_BKSH[2]
        self._shape = shape_BKSH
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * blocks

    def extend(self, block: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one block and return all of its keys and values, `[B, K, length + T, H]`.

        Raises:
            ValueError: the tokens do not fit.
        """
        end = self.length + k_BKTH.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} tokens cannot hold {end}")
        held = self._held[block]
        if held is None or held[0].shape[2] < end:
            held = self._held[block] = self._grown(held, end, k_BKTH)
        for buffer, new in zip(held, (k_BKTH, v_BKTH), strict=True):
            buffer[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def room(self) -> list[Tensor]:
        """Return keys and values of the first block, of the second and so on, `[B, K, S, H]`, once every block holds
        some. There is room for one token more, and then still some: a compiler would take a full buffer for another
        case.

        Raises:
            ValueError: it does not fit.
        """
        end = self.length + 1
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} tokens cannot hold {end}")
        for block, held in enumerate(self._held):
            assert held is not None
            if held[0].shape[2] <= end:
                self._held[block] = self._grown(held, end + 1, held[0])
        return [each for held in self._held if held is not None for each in held]

    def attend(self, block: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """Write the new tokens of one block and return what their queries see, as `llmx.nn.attend`."""
        from llmx.nn.attention import attend  # which imports this module

        return attend(q_BNTH, *self.extend(block, k_BKTH, v_BKTH), mask_BTS)

    def advance(self, tokens: int) -> None:
        """Count `tokens` as held, after every block was extended by them."""
        self.length += tokens

    def copied(self, length: int, capacity: int) -> KVCache:
        """Return a cache of its own for at most `capacity` tokens, with the first `length` tokens of this one."""
        batch, heads, _, width = self._shape
        made = KVCache(len(self._held), (batch, heads, capacity, width))
        made.length = length
        made._held = [held and (_clone(held[0], length), _clone(held[1], length)) for held in self._held]
        return made

    def nbytes(self) -> int:
        """Return the bytes of the buffers."""
        return sum(each.nbytes for held in self._held if held is not None for each in held)

    @staticmethod
    def rows(caches: Sequence[KVCache]) -> KVRows:
        """Return a cache over a batch whose row i continues `caches[i]`, each of one row and a length of its own."""
        return KVRows(caches)

    def _grown(self, held: tuple[Tensor, Tensor] | None, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        batch, heads, _, width = self._shape
        room = max(LEAST_HELD, end)
        if held is not None:
            room = max(room, 2 * held[0].shape[2])
        shape = (batch, heads, min(room, self.capacity + 1), width)
        made = (like.new_empty(shape), like.new_empty(shape))
        if held is not None:
            for old, new in zip(held, made, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
        return made


class KVRows:
    """The caches of several sequences as one, for a step in which each gets one token.

    Attention, which is over lengths that differ, goes row by row; all else of a model sees one batch. A row's result
    does not depend on the others.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches

    @property
    def length(self) -> int:
        """Tokens the longest row holds; positions are the caller's to give."""
        return max(cache.length for cache in self.caches)

    def attend(self, block: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """As `KVCache.attend`, for one token a row."""
        assert q_BNTH.shape[2] == 1
        rows = (torch.split(each, 1) for each in (q_BNTH, k_BKTH, v_BKTH))
        return torch.cat(
            [cache.attend(block, q, k, v, None) for cache, q, k, v in zip(self.caches, *rows, strict=True)]
        )

    def advance(self, tokens: int) -> None:
        for cache in self.caches:
            cache.advance(tokens)


def _clone(buffer_BKSH: Tensor, length: int) -> Tensor:
    return buffer_BKSH[:, :, :length].clone()
