"""A small model that keeps every promise, and batches for it: what parts that work on a model are checked with.

Shapes: `B` rows, `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict, frozen
from torch import Tensor, nn

from llmx.nn import Attention, Block, Decoder, SwiGLU
from llmx.protocols import IGNORE, Batch

VOCAB = 61
"""Ids of the reference model: a prime, so that a size that was mixed up with another is noticed."""


@frozen
class ReferenceOptions:
    """Shape of a reference model; the names are those of every decoder."""

    width: int = 64
    """Width of the residual stream; a multiple of 64, so that quantisers in blocks of 64 fit."""
    layers: int = 2
    """Blocks."""
    context_length: int = 64
    """Most tokens of a sequence."""
    tied: bool = False
    """The head is the embedding."""


class ReferenceModel(Decoder):
    """A decoder of some 70 thousand parameters, with a parameter of every role: its queries have biases."""

    def __init__(self, options: ReferenceOptions, *, vocab_size: int) -> None:
        self.options = options
        width, heads = options.width, 4
        blocks = [
            Block(Attention(width, heads, 2, width // heads), SwiGLU(width, 2 * width), width=width, eps=1e-5)
            for _ in range(options.layers)
        ]
        for block in blocks:
            block.self_attn.q_proj = nn.Linear(width, width)
            nn.init.zeros_(block.self_attn.q_proj.bias)
        super().__init__(
            vocab_size=vocab_size,
            width=width,
            context_length=options.context_length,
            blocks=blocks,
            eps=1e-5,
            theta=10000.0,
            tied=options.tied,
        )
        self.initialise(0.1)

    def to_config(self) -> dict[str, Any]:
        """Return the options with the vocabulary."""
        return {"model_type": "llmx-reference", "vocab_size": self.vocab_size, **asdict(self.options)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReferenceModel:
        """Build an equal model."""
        names = ("width", "layers", "context_length", "tied")
        return cls(ReferenceOptions(**{name: config[name] for name in names}), vocab_size=config["vocab_size"])


def reference_model(*, tied: bool = False, seed: int = 0) -> ReferenceModel:
    """Return the reference model with the weights of a seed, away from where initialisation put them."""
    torch.manual_seed(seed)
    model = ReferenceModel(ReferenceOptions(tied=tied), vocab_size=VOCAB)
    shaken(model, seed)
    return model


def shaken(model: Any, seed: int = 0) -> Any:
    """Move every weight of a model by noise and return the model.

    Outputs that start at zero and norms that start at one would hide faults of what stands before them. The noise of
    a matrix is scaled by its inputs, so that activations keep their size.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.1 if parameter.ndim < 2 else 0.5 / parameter.shape[-1] ** 0.5
            parameter += (scale * noise).to(parameter)
    return model


def random_ids(rows: int, tokens: int, vocab_size: int, seed: int = 0) -> Tensor:
    """Return `ids_BT`."""
    return torch.randint(vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def random_batch(rows: int = 4, tokens: int = 16, *, seed: int = 0, vocab_size: int = VOCAB) -> Batch:
    """Return rows of one document each, in which every fourth label or so does not count."""
    ids_BT = random_ids(rows, tokens + 1, vocab_size, seed)
    left_out_BT = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed)) < 0.25
    return batch_of(ids_BT[:, :-1], torch.where(left_out_BT, IGNORE, ids_BT[:, 1:]))


def batch_of(
    ids_BT: Tensor, labels_BT: Tensor, documents_BT: Tensor | None = None, positions_BT: Tensor | None = None
) -> Batch:
    """Return a batch with its count."""
    return Batch(ids_BT, labels_BT, documents_BT, positions_BT, int((labels_BT != IGNORE).sum()))


def loss_sum(model: Any, batch: Batch) -> Tensor:
    """Return the cross-entropy of the counted labels, by torch's own function over the model's logits."""
    logits_BTV = model(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
    labels_M = batch.labels_BT.flatten()
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_M, ignore_index=IGNORE, reduction="sum")


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, as a part of the largest value where that is more than 1."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
