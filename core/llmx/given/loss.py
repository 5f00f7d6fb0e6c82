"""A loss of one's own as an objective.

Shapes: `B` batch, `T` time, `K` positions that have a label, `V` vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmx.errors import RecipeError
from llmx.given.component import place_in_code
from llmx.protocols import IGNORE, Batch, Model, Objective


class LogitsLoss:
    """A loss on logits and labels, such as `nn.CrossEntropyLoss()`, as an objective.

    It is given only positions that have a label, `logits_KV` in fp32 and `labels_K`, so an `ignore_index` has nothing
    left to ignore. A scalar is taken for the mean over them, unless its `reduction` is "sum".
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss

    def prepare(self, model: Model) -> None:
        """Move what the loss holds, class weights say, to the model's device."""
        if isinstance(self.loss, nn.Module):
            self.loss.to(model.head_weight().device)

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the sum over the labels that count."""
        logits_BTV = model(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        if batch.count == 0:  # a mean over nothing is no number
            return logits_BTV.sum() * 0.0
        kept_BT = batch.labels_BT != IGNORE
        found = _tensor(self.loss(logits_BTV[kept_BT].float(), batch.labels_BT[kept_BT]), self.loss)
        if found.ndim or getattr(self.loss, "reduction", "mean") == "sum":
            return found.sum()
        return found * batch.count


class ModelLoss:
    """A function of a model and a batch as an objective; what it returns is the sum over the labels that count."""

    def __init__(self, loss: Callable[[Model, Batch], Tensor]) -> None:
        self.loss = loss

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Return the sum, a scalar."""
        found = _tensor(self.loss(model, batch), self.loss)
        if found.numel() != 1:
            raise RecipeError(
                f"loss: {_name(self.loss)} returned a tensor of shape {list(found.shape)}: must be the sum, one number"
            )
        return found.reshape(())


def objective_of(loss: Any) -> Objective:
    """Return the objective that a loss is.

    What takes `model` first is one already; anything else takes logits and labels.

    Raises:
        RecipeError: it takes neither.
    """
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        loss = loss()
    if not callable(loss):
        raise RecipeError(f"loss: a {type(loss).__name__} cannot be called: give (model, batch) or (logits, labels)")
    names = [*inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters]
    if len(names) < 2:
        raise RecipeError(
            f"loss: {_name(loss)} takes ({', '.join(names)}): must take (model, batch) or (logits, labels)"
        )
    if names[0] != "model":
        return LogitsLoss(loss)
    return ModelLoss(loss) if inspect.isroutine(loss) else cast(Objective, loss)


def _tensor(found: object, loss: object) -> Tensor:
    if not isinstance(found, torch.Tensor):
        raise RecipeError(f"loss: {_name(loss)} returned a {type(found).__name__}: must be a tensor, for its gradient")
    return found


def _name(loss: object) -> str:
    return place_in_code(loss)[1]
