"""Optimizers: adamw, adam, muon, 8-bit adamw and any of torch's, with weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from attrs import Attribute, Factory, field, frozen, validators

from llmx import Component, hookimpl

_POSITIVE = [validators.gt(0), validators.lt(float("inf"))]
_DECAY = [validators.ge(0), validators.lt(float("inf"))]
_BETAS = validators.deep_iterable(validators.and_(validators.ge(0), validators.lt(1)))

Rate = float | Literal["auto"]


def _rate(instance: Any, attribute: Attribute[Rate], value: Rate) -> None:
    if value != "auto":
        validators.and_(*_POSITIVE)(instance, attribute, value)


@frozen
class AdamOptions:
    lr: Rate = field(default=1.5e-3, validator=_rate)
    """Peak learning rate of every parameter group; the scheduler scales it. The default suits models of some
    millions of parameters trained from nothing; larger ones and fine-tuning want less. "auto" is 5e-5 * (N /
    7e9) ** -0.25 for a model of N parameters, frozen ones too, which suits continued pre-training."""
    embedding_lr: float | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Peak learning rate of the embedding alone; unset, it is `lr`."""
    betas: tuple[float, float] = field(default=(0.9, 0.95), validator=_BETAS)
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


@frozen
class AdamW8bitOptions(AdamWOptions):
    min_8bit_size: int = field(default=4096, validator=validators.ge(1), metadata={"unit": "numbers"})
    """Parameters with fewer numbers keep their averages in fp32: norms and biases, which would save nothing. 4096 is
    bitsandbytes' own."""


@frozen
class MuonOptions:
    lr: Rate | None = field(default=None, validator=validators.optional(_rate))
    """Peak learning rate of the hidden matrices. Unset it is 0.02 for `scale = "original"`, the muon package's own, and
    `adamw_lr` for "moonlight", whose updates have the size of AdamW's; for that scale alone it may be "auto", adamw's
    law of the model's size."""
    adamw_lr: Rate | None = field(default=None, validator=validators.optional(_rate))
    """Peak learning rate of every other parameter. Unset it is `lr` for `scale = "moonlight"` where that is given, and
    else 1.5e-3, adamw's own; "auto" is adamw's law of the model's size."""
    embedding_lr: float | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Peak learning rate of the embedding alone; unset, it is `adamw_lr`."""
    scale: Literal["original", "moonlight"] = "original"
    """Size of an orthogonal update of a matrix: "original" times max(1, rows / columns) ** 0.5 (Jordan et al. 2024), or
    "moonlight" times 0.2 * max(rows, columns) ** 0.5 (Liu et al. 2025), so that one rate suits both halves."""
    momentum: float = field(default=0.95, validator=[validators.ge(0), validators.lt(1)])
    """Decay per update of the hidden matrices' running average of the gradient. 0.95 is the muon package's own."""
    nesterov: bool = True
    """A step looks ahead: it goes by the average moved towards the gradient once more, as the muon package does."""
    ns_steps: int = field(default=5, validator=validators.ge(1), metadata={"unit": "Newton-Schulz iterations"})
    """Iterations that make an update orthogonal. Five bring its singular values near enough to 1 for training."""
    weight_decay: float = field(default=0.01, validator=_DECAY)
    """Every update takes lr * weight_decay off every hidden matrix. 0.01 goes with a rate of 0.02, as in the muon
    package's example; "moonlight", with its smaller rates, is used with 0.1."""
    adamw_weight_decay: float = field(default=0.1, validator=_DECAY)
    """The same for the head, by `adamw_lr`; embeddings, norms and biases do not decay. 0.1 is adamw's own."""
    betas: tuple[float, float] = field(default=(0.9, 0.95), validator=_BETAS)
    """AdamW's decay per update of the running averages of the gradient and of its square; 0.95 is adamw's own."""
    eps: float = field(default=1e-8, validator=_POSITIVE)
    """AdamW's: added to the root of the squares' average. 1e-8 is adamw's own; the muon package has 1e-10."""

    def __attrs_post_init__(self) -> None:
        if self.scale == "original" and self.lr == "auto":
            raise ValueError(
                'lr = "auto" is for updates of the size of AdamW\'s: set scale = "moonlight", '
                'or give a number and adamw_lr = "auto"'
            )

    def rates(self) -> tuple[Rate, Rate]:
        """Return the peak rates of Muon and of AdamW."""
        alike = self.scale == "moonlight"
        adamw_lr = self.adamw_lr or (alike and self.lr) or 1.5e-3
        return self.lr or (adamw_lr if alike else 0.02), adamw_lr


@frozen
class TorchOptions:
    algorithm: str
    """Name of a class of `torch.optim`: "RMSprop", "Adafactor", "SGD", …"""
    lr: Rate | None = field(default=None, validator=validators.optional(_rate))
    """Peak learning rate of every parameter group; the scheduler scales it. Unset, it is the class' own. "auto" is
    adamw's law of the model's size, meant for updates of the size of Adam's."""
    embedding_lr: float | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Peak learning rate of the embedding alone; unset, it is `lr`."""
    weight_decay: float | None = field(default=None, validator=validators.optional(_DECAY))
    """Weight decay of hidden matrices and the head, in the class' own form; embeddings, norms and biases do not decay.
    Unset, it is the class' own."""
    options: dict[str, Any] = Factory(dict)
    """What else the class takes, by its own names: `[optimizer.options]` with `momentum = 0.9`; a value must have the
    type that the class declares. What is not given is the class' own."""


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
        Component(
            name="muon",
            target="llmx_optimizers.muon:muon",
            options=MuonOptions,
            summary="Muon (Jordan et al. 2024) for hidden matrices, AdamW for the rest",
        ),
        Component(
            name="adamw8bit",
            target="llmx_optimizers.eightbit:adamw8bit",
            options=AdamW8bitOptions,
            summary="AdamW with 8-bit averages (bitsandbytes, Dettmers et al. 2022)",
        ),
        Component(
            name="torch-optim",
            target="llmx_optimizers.of_torch:torch_optim",
            options=TorchOptions,
            summary="any optimizer of torch.optim by the name of its class",
        ),
    ]
