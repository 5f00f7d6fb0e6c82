"""Cross-entropy of a linear head without its logits: they are made a few rows at a time and dropped.

Shapes: `M` positions, `C` positions of a chunk, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmx.protocols import IGNORE

CHUNK_LOGITS = 2**22
"""Logits held at once: 16 MiB in fp32, near the size of a cache."""


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """Return the sum over labelled positions of -log softmax(hidden weight^T)[label], in nats, a scalar in fp32.

    The gradients are made on the way forward, chunk by chunk, so that at most `CHUNK_LOGITS` logits exist at a time
    (as in Cut Your Losses, Wijmans et al. 2024, and Liger Kernel). Products are in the type of `hidden`; sums in fp32.
    """
    training = torch.is_grad_enabled()
    loss: Tensor = _LinearCrossEntropy.apply(hidden_MD, weight_VD, labels_M, training)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor, training: bool) -> Tensor:
        weight = weight_VD.to(hidden_MD.dtype)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if training else None
        grads, loss = [], hidden_MD.new_zeros((), dtype=torch.float32)
        chunk = max(1, CHUNK_LOGITS // weight_VD.shape[0])
        for hidden_CD, labels_C in zip(torch.split(hidden_MD, chunk), torch.split(labels_M, chunk), strict=True):
            kept_C1 = (labels_C != IGNORE)[:, None]
            target_C1 = labels_C.clamp(min=0)[:, None]
            log_p_CV = F.log_softmax(hidden_CD @ weight.T, dim=-1, dtype=torch.float32)
            loss = loss - (log_p_CV.gather(1, target_C1) * kept_C1).sum()
            if grad_weight_VD is not None:
                grad_CV = log_p_CV.exp_().mul_(kept_C1).scatter_add_(1, target_C1, -kept_C1.float())
                grad_CV = grad_CV.to(hidden_CD.dtype)
                grads.append(grad_CV @ weight)
                grad_weight_VD += grad_CV.T @ hidden_CD
        if grad_weight_VD is not None:
            ctx.save_for_backward(torch.cat(grads), grad_weight_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_MD * grads[0].to(grad_hidden_MD.dtype), grad_weight_VD * grads[0], None, None
