"""Mistakes of objective plugins, each of which a check of the kit must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmx import Component
from llmx.protocols import IGNORE, Batch

Loss = Callable[[Any, Batch], Tensor]


def logits_of(model: Any, batch: Batch) -> Tensor:
    """Return logits, one row a position."""
    logits_BTV: Tensor = model(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
    return logits_BTV.flatten(0, 1)


def mean(_: Any) -> Loss:
    """Returns the mean over the counted tokens of its batch."""
    return lambda model, batch: F.cross_entropy(logits_of(model, batch).float(), batch.labels_BT.flatten())


def one_per_token(_: Any) -> Loss:
    """Leaves the sum to the caller."""
    return lambda model, batch: F.cross_entropy(
        logits_of(model, batch).float(), batch.labels_BT.flatten(), reduction="none"
    )


def in_bf16(_: Any) -> Loss:
    """Sums in the type of the logits, which in mixed precision has three digits."""

    def loss(model: Any, batch: Batch) -> Tensor:
        log_p_MV = logits_of(model, batch)
        log_p_MV = (log_p_MV - log_p_MV.logsumexp(-1, keepdim=True).to(log_p_MV.dtype)).to(log_p_MV.dtype)
        kept_M = batch.labels_BT.flatten() != IGNORE
        return -log_p_MV.gather(1, batch.labels_BT.flatten().clamp(min=0)[:, None])[kept_M].sum()

    return loss


def per_row(_: Any) -> Loss:
    """Takes each row's mean, then their sum times the count: right only where rows are alike."""

    def loss(model: Any, batch: Batch) -> Tensor:
        losses = F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="none")
        kept_BT = batch.labels_BT != IGNORE
        rows = losses.view_as(kept_BT).sum(1) / kept_BT.sum(1).clamp(min=1)
        return rows.mean() * batch.count

    return loss


def clamped(_: Any) -> Loss:
    """Clamps the labels to index with them, and forgets to leave the clamped ones out."""

    def loss(model: Any, batch: Batch) -> Tensor:
        labels_M = batch.labels_BT.flatten().clamp(min=0)
        return F.cross_entropy(logits_of(model, batch), labels_M, reduction="sum")

    return loss


def smoothed_everywhere(_: Any) -> Loss:
    """Leaves ignored positions out of the loss, but not out of its penalty on large logits."""

    def loss(model: Any, batch: Batch) -> Tensor:
        logits_MV = logits_of(model, batch)
        penalty = 1e-3 * logits_MV.logsumexp(-1).square().sum()
        return F.cross_entropy(logits_MV, batch.labels_BT.flatten(), reduction="sum") + penalty

    return loss


def shifts_again(_: Any) -> Loss:
    """Shifts labels that are already shifted: predicts the token after the next."""

    def loss(model: Any, batch: Batch) -> Tensor:
        logits_BTV = logits_of(model, batch).view(*batch.labels_BT.shape, -1)
        return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten(), reduction="sum")

    return loss


def mean_times_count(_: Any) -> Loss:
    """Multiplies a mean with the count: 0 / 0 where no label counts."""
    mean_loss = mean(None)
    return lambda model, batch: mean_loss(model, batch) * batch.count


def early_zero(_: Any) -> Loss:
    """Returns a constant 0 where no label counts, which has no gradient to go back from."""

    def loss(model: Any, batch: Batch) -> Tensor:
        if not batch.count:
            return torch.zeros((), device=batch.ids_BT.device)
        return F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum")

    return loss


def detached_head(_: Any) -> Loss:
    """Applies the head as a plain tensor: the head is never trained."""

    def loss(model: Any, batch: Batch) -> Tensor:
        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        logits_MV = hidden_BTD.flatten(0, 1) @ model.head_weight().data.T
        return F.cross_entropy(logits_MV, batch.labels_BT.flatten(), reduction="sum")

    return loss


def likelihood(_: Any) -> Loss:
    """Returns the log-likelihood, which falls as the model learns the wrong way."""
    return lambda model, batch: -F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum")


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, labels_M: Tensor) -> Tensor:
        p_MV, kept_M1 = logits_MV.softmax(-1), (labels_M != IGNORE)[:, None]
        target_M1 = labels_M.clamp(min=0)[:, None]
        ctx.save_for_backward((p_MV.scatter_add(1, target_M1, -torch.ones_like(p_MV[:, :1]))) * kept_M1)
        return -(p_MV.gather(1, target_M1).log() * kept_M1).sum()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return ctx.saved_tensors[0], None


def fused(_: Any) -> Loss:
    """Makes the gradient on the way forward and forgets to scale it on the way back."""
    return lambda model, batch: _Fused.apply(logits_of(model, batch).float(), batch.labels_BT.flatten())


class _WrongSign(_Fused):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return -grads[0] * ctx.saved_tensors[0], None


def wrong_sign(_: Any) -> Loss:
    """Writes its gradient by hand, as target minus probability."""
    return lambda model, batch: _WrongSign.apply(logits_of(model, batch).float(), batch.labels_BT.flatten())


def without_documents(_: Any) -> Loss:
    """Gives the model the tokens alone."""
    return lambda model, batch: F.cross_entropy(
        model(batch.ids_BT).flatten(0, 1), batch.labels_BT.flatten(), reduction="sum"
    )


def without_positions(_: Any) -> Loss:
    """Tells the model the documents, and not where in them its tokens are."""

    def loss(model: Any, batch: Batch) -> Tensor:
        logits_BTV = model(batch.ids_BT, documents_BT=batch.documents_BT)
        return F.cross_entropy(logits_BTV.flatten(0, 1), batch.labels_BT.flatten(), reduction="sum")

    return loss


class Averaging:
    """Weighs a batch by a running mean of the losses before it."""

    def __init__(self, _: Any) -> None:
        self.mean: Tensor | None = None

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        loss = F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum")
        mean = loss.detach() if self.mean is None else self.mean
        self.mean = 0.9 * mean + 0.1 * loss.detach()
        return loss * mean / mean if mean is loss else loss * (self.mean / mean)


def in_place(_: Any) -> Loss:
    """Replaces the ignored labels in the batch itself, which a second pass over it then trusts."""

    def loss(model: Any, batch: Batch) -> Tensor:
        kept_M = (batch.labels_BT != IGNORE).flatten()
        labels_M = batch.labels_BT.clamp_(min=0).flatten()
        return (F.cross_entropy(logits_of(model, batch), labels_M, reduction="none") * kept_M).sum()

    return loss


def leaves_eval(_: Any) -> Loss:
    """Puts the model into evaluation mode and leaves it there."""

    def loss(model: Any, batch: Batch) -> Tensor:
        model.eval()
        return F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum")

    return loss


def selects_by_mask(_: Any) -> Loss:
    """Picks the counted rows with a mask: their number is not known on the meta device."""

    def loss(model: Any, batch: Batch) -> Tensor:
        kept_M = (batch.labels_BT != IGNORE).flatten()
        return F.cross_entropy(logits_of(model, batch)[kept_M], batch.labels_BT.flatten()[kept_M], reduction="sum")

    return loss


def smoothed(_: Any) -> Loss:
    """Is called causal-lm and smooths its labels, so that its loss is no cross-entropy in nats."""
    return lambda model, batch: F.cross_entropy(
        logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum", label_smoothing=0.01
    )


def in_bits(_: Any) -> Loss:
    """Is called causal-lm and counts in bits."""
    return lambda model, batch: (
        F.cross_entropy(logits_of(model, batch), batch.labels_BT.flatten(), reduction="sum") / 0.6931
    )


def _fault(check: str, target: Any, name: str = "") -> tuple[str, Component]:
    name = name or target.__name__.lower().replace("_", "-")
    return check, Component(name=name, target=f"llmx_faults_objective:{target.__name__}")


FAULTS = [
    _fault("scalar-in-fp32", one_per_token),
    _fault("scalar-in-fp32", in_bf16),
    _fault("sum-over-rows", mean),
    _fault("sum-over-rows", per_row),
    _fault("ignored-labels", clamped),
    _fault("ignored-labels", smoothed_everywhere),
    _fault("nothing-counted", mean_times_count),
    _fault("nothing-counted", early_zero),
    _fault("gradient-arrives", detached_head),
    _fault("gradient-arrives", wrong_sign),
    _fault("gradient-scales", fused),
    _fault("learns-the-labels", likelihood),
    _fault("learns-the-labels", shifts_again),
    _fault("documents-apart", without_documents),
    _fault("documents-apart", without_positions),
    _fault("no-state", Averaging),
    _fault("no-state", in_place),
    _fault("no-state", leaves_eval),
    _fault("meta-device", selects_by_mask),
    _fault("known-formula", smoothed, "causal-lm"),
    _fault("known-formula", in_bits, "causal-lm"),
    _fault("known-formula", shifts_again, "causal-lm"),
]

CRASHES = {"selects-by-mask": "NotImplementedError"}
"""Faults that show as an exception of their own, and which."""


# --- unusual, and right ---------------------------------------------------------------------------------------------


def plain(_: Any) -> Loss:
    """Cross-entropy from whole logits."""
    return lambda model, batch: F.cross_entropy(
        logits_of(model, batch).float(), batch.labels_BT.flatten(), reduction="sum"
    )


def z_loss(_: Any) -> Loss:
    """Cross-entropy with smoothed labels and a penalty on large logits, where a label counts."""

    def loss(model: Any, batch: Batch) -> Tensor:
        logits_MV, labels_M = logits_of(model, batch).float(), batch.labels_BT.flatten()
        penalty_M = logits_MV.logsumexp(-1).square() * (labels_M != IGNORE)
        entropy = F.cross_entropy(logits_MV, labels_M, reduction="sum", label_smoothing=0.1)
        return entropy + 1e-2 * penalty_M.sum()

    return loss


def two_tokens(_: Any) -> Loss:
    """Predicts the next token, and a little the one after it within the document."""

    def loss(model: Any, batch: Batch) -> Tensor:
        logits_MV = logits_of(model, batch).float()
        after_BT = torch.cat((batch.labels_BT[:, 1:], torch.full_like(batch.labels_BT[:, :1], IGNORE)), 1)
        after_BT = torch.where(batch.labels_BT == IGNORE, IGNORE, after_BT)
        next_loss = F.cross_entropy(logits_MV, batch.labels_BT.flatten(), reduction="sum")
        return next_loss + 0.1 * F.cross_entropy(logits_MV, after_BT.flatten(), reduction="sum")

    return loss


def focal(_: Any) -> Loss:
    """Weighs each token by how unlikely it was, the weight detached (Lin et al. 2017)."""

    def loss(model: Any, batch: Batch) -> Tensor:
        losses_M = F.cross_entropy(logits_of(model, batch).float(), batch.labels_BT.flatten(), reduction="none")
        return (losses_M * (1 - torch.exp(-losses_M.detach())) ** 2).sum()

    return loss


CORRECT = [_fault("*", plain, "causal-lm"), _fault("*", z_loss), _fault("*", two_tokens), _fault("*", focal)]
