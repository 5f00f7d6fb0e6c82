"""Next-token prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from llmx.protocols import Batch, Model
from llmx_objectives import CausalLMOptions

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class CausalLM:
    """The summed cross-entropy of the labels under the model.

    Attributes:
        chats: whether the data must hold chats.
    """

    options: CausalLMOptions
    chats: bool = False

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        from llmx.nn import linear_cross_entropy  # torch: what prepares data asks only what is read

        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        # smoothing and penalty are for training, as dropout is: an evaluation is nats of the labels, whatever they are
        training = getattr(model, "training", True)
        return linear_cross_entropy(
            hidden_BTD.flatten(0, 1),
            model.head_weight(),
            batch.labels_BT.flatten(),
            label_smoothing=self.options.label_smoothing if training else 0.0,
            z_loss=self.options.z_loss if training else 0.0,
        )


def causal_lm(options: CausalLMOptions) -> CausalLM:
    """Return the objective for any data."""
    return CausalLM(options)


def chat(options: CausalLMOptions) -> CausalLM:
    """Return the objective for chats: the same loss, for which labels are there is what the data decides."""
    return CausalLM(options, chats=True)
