"""Losses of a linear head without its logits: they are made a few rows at a time and dropped.

Shapes: `M` positions, `C` positions of a chunk, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmx.nn.shapes import only_shape
from llmx.protocols import IGNORE

CHUNK_LOGITS = 2**22
"""Logits held at once: 16 MiB in fp32, near the size of a cache."""
LEAST_ROWS = 256
"""Positions of a chunk at least: with fewer, reading the head takes longer than the product. With a vocabulary of
151,936, width 1024 and bf16 on two cores, 256 rows take 0.75 of the time of 128, half that of the 27 that are 16 MiB,
and 78 MiB."""
BLOCK_LOGITS = 2**20
"""Logits that a CPU brings to fp32 at once: 4 MiB, which its cache holds."""
MANY_IGNORED = 1 / 8
"""Share of positions without a label from which on they are taken out before the head is applied: what the copy of the
others costs is then far below what the products with the vocabulary would. Below it nothing moves, nor any rounding."""


def linear_cross_entropy(
    hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """Return the sum over labelled positions of -log softmax(hidden weight^T)[label], in nats, a scalar in fp32.

    The gradients are made on the way forward, chunk by chunk, so that the logits of a few positions exist at a time
    (as in Cut Your Losses, Wijmans et al. 2024, and Liger Kernel). Products are in autocast's type or that of `hidden`;
    sums in fp32. An argument that requires no gradient costs none.

    Args:
        label_smoothing: part of the target that is spread over the whole vocabulary: (1 - s) * -log p[label]
            + s / V * sum of -log p (Szegedy et al. 2016; `torch.nn.functional.cross_entropy` means the same).
        z_loss: factor of (log Z)^2 that is added, Z the sum of exp(logits) (Chowdhery et al. 2022, PaLM, section 5).
    """
    places_K = _many_ignored(labels_M)
    if places_K is not None:
        hidden_MD, labels_M = _Rows.apply(hidden_MD, places_K), labels_M[places_K]  # type: ignore[no-untyped-call]
    trains = tuple(torch.is_grad_enabled() and each.requires_grad for each in (hidden_MD, weight_VD))
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_MD, weight_VD, labels_M, label_smoothing, z_loss, *trains
    )
    return loss


def linear_log_probs(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """Return log softmax(hidden weight^T)[label] of each position, in nats, 0 where there is no label: `[M]`, in fp32.

    The logits of a few positions exist at a time; the backward pass makes them again, for only then is it known what
    each position counts for. Products are in autocast's type or that of `hidden`.
    """
    places_K = _many_ignored(labels_M)
    if places_K is not None:
        hidden_KD: Tensor = _Rows.apply(hidden_MD, places_K)  # type: ignore[no-untyped-call]
        log_p_K = linear_log_probs(hidden_KD, weight_VD, labels_M[places_K])
        return log_p_K.new_zeros(labels_M.shape).index_copy(0, places_K, log_p_K)
    if not (torch.is_grad_enabled() and (hidden_MD.requires_grad or weight_VD.requires_grad)):
        return _log_probs(hidden_MD, weight_VD, labels_M, _product_type(hidden_MD))
    log_p_M: Tensor = _LinearLogProbs.apply(hidden_MD, weight_VD, labels_M)  # type: ignore[no-untyped-call]
    return log_p_M


def _many_ignored(labels_M: Tensor) -> Tensor | None:
    """Return the places that have a label where many have none; None leaves all.

    Compiled code and tensors without numbers know sizes alone, and keep all.
    """
    if torch.compiler.is_compiling() or only_shape(labels_M):
        return None
    places_K = (labels_M != IGNORE).nonzero()[:, 0]
    ignored = len(labels_M) - len(places_K)
    return places_K if ignored and ignored >= MANY_IGNORED * len(labels_M) else None


def _chunk_rows(vocab_size: int) -> int:
    return max(LEAST_ROWS, CHUNK_LOGITS // vocab_size)


def _chunks(hidden_MD: Tensor, labels_M: Tensor, vocab_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the hidden states of each chunk, whether each position has a label, and the label, 0 where it has none."""
    rows = _chunk_rows(vocab_size)
    for hidden_CD, labels_C in zip(torch.split(hidden_MD, rows), torch.split(labels_M, rows), strict=True):
        yield hidden_CD, (labels_C != IGNORE)[:, None], labels_C.clamp(min=0)[:, None]


def _product_type(hidden_MD: Tensor) -> torch.dtype:
    """Return the type that a product of these states comes out in: once, that the head is not cast for every chunk."""
    return (hidden_MD[:0] @ hidden_MD[:0].T).dtype


class _Rows(torch.autograd.Function):
    """Rows of a matrix, each taken once: its gradient is put back and not, as that of an index, added up."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, places_K: Tensor) -> Tensor:
        ctx.save_for_backward(places_K)
        ctx.shape = x_MD.shape
        return x_MD.index_select(0, places_K)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places_K,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, places_K, grads[0]), None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        labels_M: Tensor,
        smoothing: float,
        z_loss: float,
        trains_hidden: bool,
        trains_weight: bool,
    ) -> Tensor:
        dtype = _product_type(hidden_MD)
        weight = weight_VD.to(dtype)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if trains_weight else None
        grads, loss, trains = [], hidden_MD.new_zeros((), dtype=torch.float32), trains_hidden or trains_weight
        logits_CV = None
        for hidden_CD, kept_C1, target_C1 in _chunks(hidden_MD, labels_M, weight_VD.shape[0]):
            hidden_CD = hidden_CD.to(dtype)
            logits_CV = _logits(hidden_CD, weight, logits_CV)
            for rows in _row_blocks(logits_CV):
                kept, target = kept_C1[rows], target_C1[rows]
                nats, grad_CV = _loss_and_gradient(logits_CV[rows], kept, target, smoothing, z_loss, trains)
                loss = loss + nats
                if grad_CV is not None:
                    logits_CV[rows] = grad_CV
            if trains_hidden:
                grads.append(logits_CV @ weight)
            if grad_weight_VD is not None:
                grad_weight_VD += logits_CV.T @ hidden_CD
        ctx.save_for_backward(torch.cat(grads) if trains_hidden else None, grad_weight_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        hidden = None if hidden is None else hidden * grads[0].to(hidden.dtype)
        return hidden, None if weight is None else weight * grads[0], *[None] * 5


def _logits(hidden_CD: Tensor, weight_VD: Tensor, buffer_CV: Tensor | None) -> Tensor:
    """Return hidden weight^T, in the memory of the chunk before where there is one."""
    if buffer_CV is None or torch.compiler.is_compiling():
        return hidden_CD @ weight_VD.T
    return torch.mm(hidden_CD, weight_VD.T, out=buffer_CV[: len(hidden_CD)])


def _row_blocks(logits_CV: Tensor) -> list[slice]:
    """Return the rows that are brought to fp32 at once: on a CPU few, whose numbers stay in its cache; else all."""
    rows, vocab_size = logits_CV.shape
    step = max(1, BLOCK_LOGITS // vocab_size)
    if logits_CV.device.type != "cpu" or torch.compiler.is_compiling():
        step = rows
    return [slice(start, start + step) for start in range(0, rows, step)]


def _loss_and_gradient(
    logits_CV: Tensor, kept_C1: Tensor, target_C1: Tensor, smoothing: float, z_loss: float, trains: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of some positions, and its gradient by their logits, in fp32, where it is wanted."""
    log_p_CV = F.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    nats_C1, factor_C1 = _loss(logits_CV, log_p_CV, target_C1, smoothing, z_loss)
    nats = (nats_C1 * kept_C1).sum()
    if not trains:
        return nats, None
    grad_CV = log_p_CV.exp_().mul_(kept_C1 if factor_C1 is None else kept_C1 * factor_C1)
    grad_CV = grad_CV.scatter_add_(1, target_C1, (smoothing - 1) * kept_C1)
    if smoothing:
        grad_CV = grad_CV.sub_(kept_C1 * (smoothing / logits_CV.shape[1]))
    return nats, grad_CV


def _loss(
    logits_CV: Tensor, log_p_CV: Tensor, target_C1: Tensor, smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of each position, and the factor of p in its gradient where that is not 1."""
    log_p_C1 = log_p_CV.gather(1, target_C1)
    nats_C1, factor_C1 = -log_p_C1, None
    if smoothing:
        nats_C1 = (1 - smoothing) * nats_C1 - smoothing * log_p_CV.mean(1, keepdim=True)
    if z_loss:
        log_z_C1 = logits_CV.gather(1, target_C1).float() - log_p_C1
        nats_C1 = nats_C1 + z_loss * log_z_C1.square()
        factor_C1 = 1 + 2 * z_loss * log_z_C1
    return nats_C1, factor_C1


def _log_probs(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the log-probability of each label, chunk by chunk."""
    weight = weight_VD.to(dtype)
    found = []
    for hidden_CD, kept_C1, target_C1 in _chunks(hidden_MD, labels_M, weight_VD.shape[0]):
        log_p_CV = F.log_softmax(hidden_CD.to(dtype) @ weight.T, dim=-1, dtype=torch.float32)
        found.append((log_p_CV.gather(1, target_C1) * kept_C1)[:, 0])
    return torch.cat(found)


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
        ctx.dtype = _product_type(hidden_MD)
        ctx.save_for_backward(hidden_MD, weight_VD, labels_M)
        return _log_probs(hidden_MD, weight_VD, labels_M, ctx.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, labels_M = ctx.saved_tensors
        trains_hidden, trains_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.to(ctx.dtype)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if trains_weight else None
        parts = []
        chunks = _chunks(hidden_MD, labels_M, weight_VD.shape[0])
        factors = torch.split(grads[0], _chunk_rows(weight_VD.shape[0]))
        for (hidden_CD, kept_C1, target_C1), factor_C in zip(chunks, factors, strict=True):
            hidden = hidden_CD.to(ctx.dtype)
            factor_C1 = factor_C[:, None] * kept_C1
            grad_CV = F.softmax(hidden @ weight.T, dim=-1, dtype=torch.float32).mul_(-factor_C1)
            grad_CV = grad_CV.scatter_add_(1, target_C1, factor_C1).to(ctx.dtype)
            if trains_hidden:
                parts.append((grad_CV @ weight).to(hidden_MD.dtype))
            if grad_weight_VD is not None:
                grad_weight_VD += grad_CV.T @ hidden
        return torch.cat(parts) if parts else None, grad_weight_VD, None
