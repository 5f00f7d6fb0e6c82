"""What a model is trained to do: `causal-lm`, `chat` and `dpo`."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators

from llmx import Component, hookimpl

share: Any = validators.and_(validators.ge(0), validators.lt(1))
not_negative: Any = validators.ge(0)


@frozen
class CausalLMOptions:
    """What is added to the cross-entropy while the model trains; an evaluation measures the cross-entropy alone."""

    label_smoothing: float = field(default=0.0, validator=share)
    """Share of each target that is spread over the whole vocabulary; 0 asks for the label alone, as pre-training does
    everywhere."""
    z_loss: float = field(default=0.0, validator=not_negative)
    """Factor of the squared logarithm of the sum of exp(logits), in nats per token, which keeps logits from drifting;
    1e-4 is that of PaLM. 0 adds none."""


@frozen
class DPOOptions:
    """Direct preference optimisation."""

    beta: float = field(default=0.1, validator=validators.gt(0))
    """How strongly the model is held to its reference; the paper's choice. Less lets it go further away. With "ipo" it
    sets the margin to reach, 1 / (2 beta) nats per token."""
    label_smoothing: float = field(default=0.0, validator=validators.and_(not_negative, validators.lt(0.5)))
    """Share of pairs that are taken to be labelled the wrong way round (conservative DPO); 0 trusts them all."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """"sigmoid" is the logistic loss of the paper. "ipo" is the square of what the mean log-probabilities lack of the
    margin, which stops pulling once that is reached, and so overfits less on pairs without noise."""

    def __attrs_post_init__(self) -> None:
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError('\'label_smoothing\' belongs to loss = "sigmoid": leave it 0 with "ipo"')


@hookimpl
def llmx_objectives() -> list[Component]:
    return [
        Component(
            name="causal-lm",
            target="llmx_objectives.causal:causal_lm",
            options=CausalLMOptions,
            summary="predict each next token that the data trains on: cross-entropy in nats",
        ),
        Component(
            name="chat",
            target="llmx_objectives.causal:chat",
            options=CausalLMOptions,
            summary="causal-lm, and refuse data without chats; data.loss_on says whose turns are trained on",
        ),
        Component(
            name="dpo",
            target="llmx_objectives.preference:dpo",
            options=DPOOptions,
            summary="prefer the chosen answer of a pair to the rejected one, near a reference (direct preference opt.)",
        ),
    ]
