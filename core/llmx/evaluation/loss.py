"""The loss of a model on rows, in nats per token, and what follows from it.

Shapes: `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional as F

from llmx.evaluation.sources import Measurable
from llmx.generate.forward import device_of
from llmx.progress import progress
from llmx.protocols import IGNORE, Batch, Model
from llmx.train.device import to_device

ROWS = 8
"""Rows of a forward pass; what they say does not depend on it."""


@frozen
class Score:
    """What was measured on a source, or on all.

    Attributes:
        nats: sum of the loss over the tokens.
        tokens: those that were predicted: of chats, the ones that are trained on.
        text_bytes: UTF-8 bytes of the text they spell.
        documents: that were read; None where rows were left out, which begin and end anywhere. So with lost turns.
    """

    label: str
    nats: float
    tokens: int
    text_bytes: float
    documents: int | None
    lost_turns: int | None = 0

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, which does not depend on the tokenizer; None where the tokens spell no text."""
        return self.nats / self.text_bytes / math.log(2) if self.text_bytes else None

    def to_plain(self) -> dict[str, Any]:
        return {
            "source": self.label,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "documents": self.documents,
            "lost_turns": self.lost_turns,
        }


def scores(model: Model, sources: Sequence[Measurable], most_tokens: int | None = None) -> list[Score]:
    """Measure a model on each source.

    Args:
        most_tokens: about so many positions of each source, from its first rows on; None reads all.
    """
    found = []
    cast(nn.Module, model).eval()
    with progress("Measuring", "tokens") as report, torch.inference_mode():
        done = 0
        for each in sources:
            nats, tokens, rows = 0.0, 0, 0
            for batch in each.rows.batches(ROWS, most_tokens):
                nats += batch_nats(model, batch)
                tokens += batch.count
                rows += len(batch.ids_BT)
                report(done := done + batch.count)
            text_bytes = each.rows.text_bytes * tokens / each.rows.predicted
            of_all = (each.documents, each.lost_turns) if rows == each.rows.rows else (None, None)
            found.append(Score(each.label, nats, tokens, text_bytes, *of_all))
    return found


def batch_nats(model: Model, batch: Batch) -> float:
    """Return the summed cross-entropy of a batch's labels, in fp32, by the head that also answers."""
    moved = to_device(batch, device_of(model))
    logits_BTV = model(moved.ids_BT, documents_BT=moved.documents_BT, positions_BT=moved.positions_BT)
    total = 0.0
    for logits_TV, labels_T in zip(logits_BTV, moved.labels_BT, strict=True):  # a row at a time: the vocabulary is wide
        total += float(_nats(logits_TV, labels_T))
    return total


def _nats(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    return F.cross_entropy(logits_TV.float(), labels_T, ignore_index=IGNORE, reduction="sum")


def total(found: Sequence[Score]) -> Score:
    """Return the sum over all sources."""
    return Score(
        "all",
        sum(each.nats for each in found),
        sum(each.tokens for each in found),
        sum(each.text_bytes for each in found),
        _sum([each.documents for each in found]),
        _sum([each.lost_turns for each in found]),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if len(known) == len(counts) else None
