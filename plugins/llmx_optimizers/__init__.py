"""Optimizers: adamw and adam, with weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen, validators

from llmx import Component, hookimpl

_POSITIVE = [validators.gt(0), validators.lt(float("inf"))]
_DECAY = [validators.ge(0), validators.lt(float("inf"))]


@frozen
class AdamOptions:
    lr: float = field(default=1.5e-3, validator=_POSITIVE)
    """Peak learning rate of every parameter group; the scheduler scales it. The default suits models of some
    millions of parameters trained from nothing; larger ones and fine-tuning want less."""
    embedding_lr: float | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Peak learning rate of the embedding alone; unset, it is `lr`."""
    betas: tuple[float, float] = field(
        default=(0.9, 0.95), validator=validators.deep_iterable(validators.and_(validators.ge(0), validators.lt(1)))
    )
    """Decay per update of the running averages of the gradient and of its square. 0.95 rather than 0.999 forgets a
    gradient spike within tens of updates, as language models since GPT-3 have it."""
    eps: float = field(default=1e-8, validator=_POSITIVE)
    """Added to the root of the squares' average: keeps updates bounded where gradients are near 0. 1e-8 is the
    paper's (Kingma & Ba 2015)."""
    weight_decay: float = field(default=0.0, validator=_DECAY)
    """L2 penalty: this part of every hidden matrix and of the head is added to its gradient. Adam rescales it with the
    gradient, which weakens it where gradients are large, so the default is none; adamw has the better form."""


@frozen
class AdamWOptions(AdamOptions):
    weight_decay: float = field(default=0.1, validator=_DECAY)
    """Every update takes lr * weight_decay off every hidden matrix and the head, apart from the gradient; embeddings,
    norms and biases do not decay. 0.1 is the usual value for language models since GPT-3."""


@hookimpl
def llmx_optimizers() -> Iterable[Component]:
    return [
        Component(
            name="adamw",
            target="llmx_optimizers.adam:adamw",
            options=AdamWOptions,
            summary="AdamW (Loshchilov & Hutter 2019) with decay on matrices only",
        ),
        Component(
            name="adam",
            target="llmx_optimizers.adam:adam",
            options=AdamOptions,
            summary="Adam (Kingma & Ba 2015) with an L2 penalty on matrices only, none by default",
        ),
    ]
