"""Causal attention over grouped heads, with documents kept apart and an optional cache.

Shapes: `B` batch, `T` new tokens, `S` all tokens, `D` width, `N` query heads, `K` key-value heads, `H` head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx.nn.cache import KVCache
from llmx.nn.rotary import rotate


class Attention(nn.Module):
    """Self-attention with rotary positions and grouped key-value heads (Ainslie et al. 2023)."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.q_proj = nn.Linear(width, heads * head_width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=False)
        self.o_proj = nn.Linear(heads * head_width, width, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        tables: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None,
        cache: KVCache | None,
        block: int,
    ) -> Tensor:
        heads = (-1, self.head_width)
        q_BNTH = rotate(self.q_proj(x_BTD).unflatten(-1, heads).transpose(1, 2), tables)
        k_BKTH = rotate(self.k_proj(x_BTD).unflatten(-1, heads).transpose(1, 2), tables)
        v_BKTH = self.v_proj(x_BTD).unflatten(-1, heads).transpose(1, 2)
        if cache is not None:
            k_BKTH, v_BKTH = cache.extend(block, k_BKTH, v_BKTH)
        y_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, mask_BTS)
        out_BTD: Tensor = self.o_proj(y_BNTH.transpose(1, 2).flatten(-2))
        return out_BTD


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(H)) v where the mask is true; a mask of None is causal, or all when T is 1."""
    grouped = q_BNTH.shape[1] != k_BKSH.shape[1]
    causal = mask_BTS is None and q_BNTH.shape[2] > 1
    mask = None if mask_BTS is None else mask_BTS[:, None]
    return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def attention_mask(documents_BT: Tensor | None, tokens: int, past: int, device: torch.device) -> Tensor | None:
    """Return `mask_BTS`, true where a position may look, or None where plain causal attention says the same.

    Args:
        documents_BT: a position sees only its own document. Not together with a cache.
        past: tokens already in the cache.
    """
    if documents_BT is None and (past == 0 or tokens == 1):
        return None
    causal = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)[None]
    return causal if documents_BT is None else causal & (documents_BT[:, :, None] == documents_BT[:, None, :])
