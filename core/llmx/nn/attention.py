"""Causal attention over grouped heads, with documents kept apart and an optional cache.

Shapes: `B` batch, `T` new tokens, `S` all tokens, `D` width, `N` query heads, `K` key-value heads, `H` head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx.nn.cache import KVCache
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import rotate

DENSE_TOKENS = 512
"""Longest sequence for which a CPU trains with whole score matrices: up to here that is faster than the CPU's flash
kernel, whose backward runs at a third of the speed of plain products at T = 256, H = 48 (tests/benchmarks)."""

DENSE_SCORES = 2**21
"""Scores made at once on a CPU: a few sequences at a time, that they stay in its cache."""


class Attention(nn.Module):
    """Self-attention with rotary positions and grouped key-value heads (Ainslie et al. 2023).

    Args:
        head_width: features of a head; `heads` times it may differ from `width`.
        qkv_bias: queries, keys and values have a bias, as in Qwen2.
        qk_norm_eps: each head of queries and keys is normalised before it is rotated, as in Qwen3; None: is not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        qkv_bias: bool = False,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        self.q_proj = nn.Linear(width, heads * head_width, bias=qkv_bias)
        self.k_proj = nn.Linear(width, kv_heads * head_width, bias=qkv_bias)
        self.v_proj = nn.Linear(width, kv_heads * head_width, bias=qkv_bias)
        self.o_proj = nn.Linear(heads * head_width, width, bias=False)
        self.q_norm = None if qk_norm_eps is None else RMSNorm(head_width, qk_norm_eps)
        self.k_norm = None if qk_norm_eps is None else RMSNorm(head_width, qk_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        tables: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None,
        cache: KVCache | None,
        block: int,
    ) -> Tensor:
        heads = (-1, self.head_width)
        q_BTNH = self.q_proj(x_BTD).unflatten(-1, heads)
        k_BTKH = self.k_proj(x_BTD).unflatten(-1, heads)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        q_BNTH, k_BKTH = rotate(q_BTNH.transpose(1, 2), tables), rotate(k_BTKH.transpose(1, 2), tables)
        v_BKTH = self.v_proj(x_BTD).unflatten(-1, heads).transpose(1, 2)
        if cache is not None:
            k_BKTH, v_BKTH = cache.extend(block, k_BKTH, v_BKTH)
        y_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, mask_BTS)
        out_BTD: Tensor = self.o_proj(y_BNTH.transpose(1, 2).flatten(-2))
        return out_BTD


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(H)) v where the mask is true; a mask of None is causal, or all when T is 1."""
    groups = q_BNTH.shape[1] // k_BKSH.shape[1]
    tokens = q_BNTH.shape[2]
    if q_BNTH.device.type == "cpu" and q_BNTH.requires_grad and 1 < tokens == k_BKSH.shape[2] <= DENSE_TOKENS:
        if groups > 1:
            k_BKSH, v_BKSH = k_BKSH.repeat_interleave(groups, 1), v_BKSH.repeat_interleave(groups, 1)
        if mask_BTS is None:
            mask_BTS = torch.ones(1, tokens, tokens, dtype=torch.bool).tril()
        bias_B1TS = torch.zeros(mask_BTS.shape, dtype=q_BNTH.dtype).masked_fill_(~mask_BTS, -torch.inf)[:, None]
        q_BNTH = q_BNTH * q_BNTH.shape[-1] ** -0.5
        if torch.compiler.is_compiling():  # the compiler fuses the plain formula, and cannot see into the slices
            return (q_BNTH @ k_BKSH.mT + bias_B1TS).softmax(-1, dtype=torch.float32).to(v_BKSH.dtype) @ v_BKSH
        y_BNTH: Tensor = _DenseAttention.apply(q_BNTH, k_BKSH, v_BKSH, bias_B1TS)  # type: ignore[no-untyped-call]
        return y_BNTH
    mask = None if mask_BTS is None else mask_BTS[:, None]
    causal = mask is None and tokens > 1
    return F.scaled_dot_product_attention(
        q_BNTH, k_BKSH, v_BKSH, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1
    )


class _DenseAttention(torch.autograd.Function):
    """softmax(q k^T + bias) v by whole score matrices; keeps the probabilities, in the type of q, for the backward."""

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, bias_B1TS: Tensor) -> Tensor:
        p_BNTS = q_BNTH.new_empty(*q_BNTH.shape[:3], k_BNSH.shape[2])
        y_BNTH = torch.empty_like(q_BNTH)
        for rows in _slices(p_BNTS):
            scores = torch.matmul(q_BNTH[rows], k_BNSH[rows].mT)
            scores += bias_B1TS if len(bias_B1TS) == 1 else bias_B1TS[rows]
            torch.softmax(scores, -1, out=p_BNTS[rows])
            torch.matmul(p_BNTS[rows], v_BNSH[rows], out=y_BNTH[rows])
        ctx.save_for_backward(q_BNTH, k_BNSH, v_BNSH, p_BNTS)
        return y_BNTH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BNTH, k_BNSH, v_BNSH, p_BNTS = ctx.saved_tensors
        grad_BNTH = grads[0].contiguous()
        dq, dk, dv = torch.empty_like(q_BNTH), torch.empty_like(k_BNSH), torch.empty_like(v_BNSH)
        for rows in _slices(p_BNTS):
            grad, p = grad_BNTH[rows], p_BNTS[rows]
            dp = torch.matmul(grad, v_BNSH[rows].mT)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            torch.matmul(ds, k_BNSH[rows], out=dq[rows])
            torch.matmul(ds.mT, q_BNTH[rows], out=dk[rows])
            torch.matmul(p.mT, grad, out=dv[rows])
        return dq, dk, dv, None


def _slices(p_BNTS: Tensor) -> list[slice]:
    step = max(1, DENSE_SCORES // p_BNTS[0].numel())
    return [slice(start, start + step) for start in range(0, len(p_BNTS), step)]


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
