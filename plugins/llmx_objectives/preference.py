"""Direct preference optimisation (Rafailov et al. 2023), conservative (Mitchell 2023) and IPO (Azar et al. 2023).

Shapes: `B` rows, `T` positions, `S` documents a row may hold, an even number, `P` pairs of all rows, D width.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx import LlmxError
from llmx.nn import adapted_modules, linear_log_probs, without_adapters
from llmx.protocols import IGNORE, Batch, Model
from llmx_objectives import DPOOptions

FIGURES = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy")


class DPO:
    """The summed loss of preference pairs: documents 2k and 2k + 1 of a row are the chosen and the rejected one.

    The reference is the model without its adapters where nothing else is trained, and else a frozen copy of the model
    as it began.
    """

    pairs = True

    def __init__(self, options: DPOOptions) -> None:
        self.options = options
        self._prepared = False
        self._copy: Model | None = None
        self._sums: Tensor | None = None

    def prepare(self, model: Model) -> None:
        """Take the reference, from the model as it began."""
        self._prepared = True
        module = cast(nn.Module, model)
        within = {id(p) for adapted in adapted_modules(module) for p in adapted.parameters()}
        if within and all(id(p) in within for p in module.parameters() if p.requires_grad):
            self._copy = None
            return
        self._copy = copy.deepcopy(model)
        cast(nn.Module, self._copy).requires_grad_(False).eval()

    def count(self, batch: Batch) -> int:
        """Return how many pairs a batch has."""
        _, tokens_P2 = _sums(torch.zeros_like(batch.labels_BT, dtype=torch.float32), batch)
        return int(_counted(tokens_P2).sum())

    def metrics(self) -> dict[str, Tensor]:
        """Return the sums over pairs of both rewards, of their difference, and of whether it is above 0."""
        sums = torch.zeros(len(FIGURES)) if self._sums is None else self._sums
        self._sums = None
        return dict(zip(FIGURES, sums.unbind(), strict=True))

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        if not self._prepared:
            self.prepare(model)
        with torch.no_grad():
            reference_P2, _ = self._reference(model, batch)
        chosen_P2, tokens_P2 = self._log_probs(model, batch)
        pair_P = _counted(tokens_P2)
        ratio_P2 = chosen_P2 - reference_P2
        loss_P = self._loss(ratio_P2[:, 0] - ratio_P2[:, 1])
        self._measure(self.options.beta * ratio_P2.detach(), pair_P)
        return torch.where(pair_P, loss_P, 0.0).sum()

    def _reference(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._copy is not None:
            return self._log_probs(self._copy, batch)
        with without_adapters(cast(nn.Module, model)):
            return self._log_probs(model, batch)

    def _log_probs(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each side of each pair, for IPO the mean over its tokens, and those tokens."""
        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        log_p_M = linear_log_probs(hidden_BTD.flatten(0, 1), model.head_weight(), batch.labels_BT.flatten())
        sums_P2, tokens_P2 = _sums(log_p_M.view_as(batch.labels_BT), batch)
        return (sums_P2 / tokens_P2.clamp(min=1) if self.options.loss == "ipo" else sums_P2), tokens_P2

    def _loss(self, margin_P: Tensor) -> Tensor:
        beta, wrong = self.options.beta, self.options.label_smoothing
        if self.options.loss == "ipo":
            return (margin_P - 1 / (2 * beta)).square()
        return -(1 - wrong) * F.logsigmoid(beta * margin_P) - wrong * F.logsigmoid(-beta * margin_P)

    def _measure(self, reward_P2: Tensor, pair_P: Tensor) -> None:
        chosen_P, rejected_P = reward_P2.unbind(1)
        figures = torch.stack([chosen_P, rejected_P, chosen_P - rejected_P, (chosen_P > rejected_P).float()])
        sums = (figures * pair_P).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums


def dpo(options: DPOOptions) -> DPO:
    """Return the objective."""
    return DPO(options)


def _sums(values_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sum of the values over each side of each pair, and how many of its positions have a label."""
    if batch.documents_BT is None:
        raise LlmxError("dpo: the batch tells no documents apart, and a pair is two of them")
    rows, length = batch.labels_BT.shape
    most = length + length % 2
    documents_BT = batch.documents_BT.long().clamp(min=0)  # padding is -1, and has no label
    place_M = (documents_BT + most * torch.arange(rows, device=documents_BT.device)[:, None]).flatten()
    kept_M = (batch.labels_BT != IGNORE).flatten().float()
    sums, tokens = (
        each_M.new_zeros(rows * most).index_add(0, place_M, each_M).view(-1, 2)
        for each_M in (values_BT.flatten(), kept_M)
    )
    return sums, tokens


def _counted(tokens_P2: Tensor) -> Tensor:
    """Return of which pairs both sides have labels."""
    return (tokens_P2 > 0).all(1)
