"""Causal attention over grouped heads, with documents kept apart and an optional cache.

Shapes: `B` batch, `T` new tokens, `S` all tokens, `D` width, `N` query heads, `K` key-value heads, `H` head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx.nn.cache import KVCache, KVRows
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import rotate

DENSE_TOKENS = 512
"""Longest sequence for which the backward on a CPU is made by plain products: up to here they take two thirds of the
time of the CPU's flash kernel and less (tests/benchmarks); at 2,048 they are level."""

DENSE_SCORES = 2**21
"""Scores made at once on a CPU: a few sequences at a time, that they stay in its cache."""

LEAST_QUERIES = 128
"""Queries whose scores are made at once, at least: with fewer the products are slow."""


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
        self.qkv_proj: nn.Module | None = None  # llmx.nn.packed puts it in the place of the three
        self.qk_norm: RMSNorm | None = None

    def forward(
        self,
        x_BTD: Tensor,
        tables: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None,
        cache: KVCache | KVRows | None,
        block: int,
    ) -> Tensor:
        q_BNTH, k_BKTH, v_BKTH = (self._heads if self.qkv_proj is None else self._fused_heads)(x_BTD, tables)
        if cache is None:
            y_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, mask_BTS)
        else:
            y_BNTH = cache.attend(block, q_BNTH, k_BKTH, v_BKTH, mask_BTS)
        out_BTD: Tensor = self.o_proj(y_BNTH.transpose(1, 2).flatten(-2))
        return out_BTD

    def _heads(self, x_BTD: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        heads = (-1, self.head_width)
        q_BTNH = self.q_proj(x_BTD).unflatten(-1, heads)
        k_BTKH = self.k_proj(x_BTD).unflatten(-1, heads)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        v_BKTH = self.v_proj(x_BTD).unflatten(-1, heads).transpose(1, 2)
        return rotate(q_BTNH.transpose(1, 2), tables), rotate(k_BTKH.transpose(1, 2), tables), v_BKTH

    def _fused_heads(self, x_BTD: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """As `_heads`; queries and keys stand side by side, so that one operation is for both."""
        assert self.qkv_proj is not None
        all_BTAH = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.head_width))
        qk_BTAH, v_BTKH = all_BTAH.tensor_split((self.heads + self.kv_heads,), -2)
        if self.qk_norm is not None:
            qk_BTAH = self.qk_norm(qk_BTAH)
        qk_BATH = rotate(qk_BTAH.transpose(1, 2), tables)
        q_BNTH, k_BKTH = qk_BATH.tensor_split((self.heads,), 1)
        return q_BNTH, k_BKTH, v_BTKH.transpose(1, 2)

    def fuse_norms(self) -> None:
        """Join the norms of queries and keys, after `qkv_proj` took the place of the three projections."""
        if self.q_norm is None or self.k_norm is None:
            return
        parts = [
            each.weight.expand(heads, -1) for each, heads in ((self.q_norm, self.heads), (self.k_norm, self.kv_heads))
        ]
        self.qk_norm = RMSNorm(self.head_width, self.q_norm.eps)
        self.qk_norm.weight = nn.Parameter(torch.cat(parts), requires_grad=False)
        self.q_norm = self.k_norm = None


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(H)) v where the mask is true; a mask of None is causal, or all when T is 1.

    Where T is S, a mask may hide what is causal, and never shows a position what comes after it.
    """
    tokens = q_BNTH.shape[2]
    if tokens == 1 and mask_BTS is None and q_BNTH.dtype == torch.float32 and not torch.is_grad_enabled():
        return _one_query(q_BNTH, k_BKSH, v_BKSH)
    if q_BNTH.device.type == "cpu" and q_BNTH.requires_grad and 1 < tokens == k_BKSH.shape[2] <= DENSE_TOKENS:
        if torch.compiler.is_compiling():  # the compiler fuses the plain formula, and cannot see into a function
            return _plain(q_BNTH, k_BKSH, v_BKSH, mask_BTS)
        y_BNTH: Tensor = _DenseAttention.apply(q_BNTH, k_BKSH, v_BKSH, mask_BTS)  # type: ignore[no-untyped-call]
        return y_BNTH
    return _fused(q_BNTH, k_BKSH, v_BKSH, mask_BTS)


def _fused(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """Return attention by torch's own kernels."""
    mask = None if mask_BTS is None else mask_BTS[:, None]
    causal = mask is None and q_BNTH.shape[2] > 1
    grouped = q_BNTH.shape[1] > k_BKSH.shape[1]
    return F.scaled_dot_product_attention(q_BNTH, k_BKSH, v_BKSH, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def _one_query(q_BN1H: Tensor, k_BKSH: Tensor, v_BKSH: Tensor) -> Tensor:
    """Return attention of one position: the heads of a group stand where queries stand, so that keys are not repeated.
    In bf16 the CPU's kernel is faster with them repeated."""
    grouped_BKGH = q_BN1H.view(len(q_BN1H), k_BKSH.shape[1], -1, q_BN1H.shape[-1])
    return F.scaled_dot_product_attention(grouped_BKGH, k_BKSH, v_BKSH).flatten(1, 2).unsqueeze(2)


def _plain(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, mask_BTT: Tensor | None) -> Tensor:
    """Return attention as a formula."""
    groups, tokens = q_BNTH.shape[1] // k_BKTH.shape[1], q_BNTH.shape[2]
    if groups > 1:
        k_BKTH, v_BKTH = k_BKTH.repeat_interleave(groups, 1), v_BKTH.repeat_interleave(groups, 1)
    if mask_BTT is None:
        mask_BTT = torch.ones(1, tokens, tokens, dtype=torch.bool).tril()
    scores_BNTT = (q_BNTH * q_BNTH.shape[-1] ** -0.5) @ k_BKTH.mT + _bias(mask_BTT, q_BNTH.dtype)[:, None]
    y_BNTH: Tensor = scores_BNTT.softmax(-1, dtype=torch.float32).to(v_BKTH.dtype) @ v_BKTH
    return y_BNTH


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: 0 where the mask is true, else minus infinity."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)


class _DenseAttention(torch.autograd.Function):
    """Forward by torch's kernel, which is fast; backward by plain products, which are faster than its backward.

    Keeps q, k and v. The probabilities are made again, for a few sequences and half of their queries at a time, and
    only over the keys up to the last of these queries.
    """

    @staticmethod
    def forward(ctx: Any, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, mask_BTT: Tensor | None) -> Tensor:
        ctx.save_for_backward(q_BNTH, k_BKTH, v_BKTH, mask_BTT)
        return _fused(q_BNTH, k_BKTH, v_BKTH, mask_BTT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        *inputs, mask_BTT = ctx.saved_tensors
        q, k, v = (each.to(grads[0].dtype) for each in inputs)  # autocast may have brought them there
        made = tuple(torch.empty_like(each) for each in (q, k, v))
        batch, heads, tokens, _ = q.shape
        step = max(1, DENSE_SCORES // (heads * _query_rows(tokens) * tokens))
        for rows in (slice(start, start + step) for start in range(0, batch, step)):
            mask = mask_BTT if mask_BTT is None or len(mask_BTT) == 1 else mask_BTT[rows]
            _write_gradients([each[rows] for each in made], [each[rows] for each in (q, k, v, grads[0])], mask)
        dq, dk, dv = made
        return dq, dk, dv, None


def _query_rows(tokens: int) -> int:
    """Return how many queries are looked at together: half, that a quarter of the work falls away, yet enough for
    the products to be fast."""
    return max(LEAST_QUERIES, -(-tokens // 2))


def _write_gradients(made: list[Tensor], given: list[Tensor], mask_BTT: Tensor | None) -> None:
    """Write the gradients of q, k and v to `made`, from q, k, v and that of y. Queries of a group stand one below
    another: `M` are batch times key-value heads, `R` groups times queries."""
    q, k, v, grad = given
    batch, heads, tokens, width = q.shape
    kv_heads = k.shape[1]
    k_MSH, v_MSH = (each.reshape(batch * kv_heads, tokens, width) for each in (k, v))
    dk_MSH: Tensor | None = None
    dv_MSH: Tensor | None = None
    size = _query_rows(tokens)
    for start in reversed(range(0, tokens, size)):  # the last see all keys
        end = min(start + size, tokens)
        q_MRH, grad_MRH = (each[:, :, start:end].reshape(batch * kv_heads, -1, width) for each in (q, grad))
        q_MRH = q_MRH * width**-0.5
        p_MRS = torch.bmm(q_MRH, k_MSH[:, :end].mT)
        scores_BNTS = p_MRS.view(batch, heads, end - start, end)
        if mask_BTT is None:
            causal = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            scores_BNTS[..., start:] += _bias(causal, q.dtype)
        else:
            scores_BNTS += _bias(mask_BTT[:, start:end, :end], q.dtype)[:, None]
        torch.softmax(p_MRS, -1, out=p_MRS)
        dv_MSH = _added(dv_MSH, torch.bmm(p_MRS.mT, grad_MRH))
        ds_MRS = torch.bmm(grad_MRH, v_MSH[:, :end].mT)
        ds_MRS = torch._softmax_backward_data(ds_MRS, p_MRS, -1, p_MRS.dtype)
        made[0][:, :, start:end] = torch.bmm(ds_MRS, k_MSH[:, :end]).mul_(width**-0.5).view(batch, heads, -1, width)
        dk_MSH = _added(dk_MSH, torch.bmm(ds_MRS.mT, q_MRH))
    for whole, part_MSH in zip(made[1:], (dk_MSH, dv_MSH), strict=True):
        assert part_MSH is not None
        whole.copy_(part_MSH.view(whole.shape))


def _added(whole_MSH: Tensor | None, part_MSH: Tensor) -> Tensor:
    """Return the whole with a part added to its beginning, in place; at first the part is the whole."""
    if whole_MSH is None:
        return part_MSH
    whole_MSH[:, : part_MSH.shape[1]] += part_MSH
    return whole_MSH


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
