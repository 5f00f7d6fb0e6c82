"""Next-token prediction."""

from __future__ import annotations

from torch import Tensor

from llmx import NoOptions
from llmx.nn import linear_cross_entropy
from llmx.protocols import Batch, Model, Objective


def causal_lm(_: NoOptions) -> Objective:
    """Return the summed cross-entropy of the labels under the model."""

    def loss_sum(model: Model, batch: Batch) -> Tensor:
        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        return linear_cross_entropy(hidden_BTD.flatten(0, 1), model.head_weight(), batch.labels_BT.flatten())

    return loss_sum
