"""Samplers: greedy, temperature, top-k, top-p, min-p, penalties for repetition, biases of single tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Attribute, field, frozen, validators

from llmx import Component, hookimpl


def _above_zero(_: Any, attribute: Attribute[float], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name!r} must be > 0 and finite: {value}; for the best token always use greedy")


@frozen
class TemperatureOptions:
    temperature: float = field(default=0.7, validator=_above_zero)
    """What every logit is divided by: below 1 sharpens, above 1 flattens. 0.7 is a little sharper than the model
    was trained to be, which costs small models few of their words and saves them many slips."""


@frozen
class TopKOptions:
    k: int = field(default=50, validator=validators.ge(1), metadata={"unit": "tokens"})
    """Most likely tokens kept at every step; tokens tied with the last of them stay too, and more than the
    vocabulary keeps all. 50 is what transformers takes."""


@frozen
class TopPOptions:
    p: float = field(default=0.9, validator=[validators.gt(0), validators.le(1)], metadata={"unit": "probability"})
    """Probability that the kept tokens reach together: the smallest set of best tokens that does, one at least.
    0.9 cuts the long tail of slips and little else (Holtzman et al. 2020)."""


@frozen
class MinPOptions:
    p: float = field(default=0.05, validator=[validators.ge(0), validators.le(1)], metadata={"unit": "probability"})
    """Least probability of a kept token, as a fraction of the best token's; 0 keeps all, 1 only the best. 0.05 is
    the milder end of what its authors advise (Nguyen et al. 2024)."""


@frozen
class RepetitionPenaltyOptions:
    penalty: float = field(default=1.1, validator=[validators.ge(1), validators.lt(float("inf"))])
    """What positive logits of tokens in the prompt or the output are divided by and negative ones multiplied by;
    1 changes nothing. 1.1 is mild: 1.2 (Keskar et al. 2019) starts to avoid words that a text needs."""


@frozen
class NoRepeatNgramOptions:
    size: int = field(default=3, validator=validators.ge(1), metadata={"unit": "tokens"})
    """Length of the runs of tokens that may stand only once in prompt and output together. 3 stops loops and lets
    pairs that belong together return (Paulus et al. 2018)."""


def _tokens(_: Any, attribute: Attribute[Mapping[str, float]], value: Mapping[str, float]) -> None:
    wrong = [token for token in value if not (token.isascii() and token.isdigit() and len(token) < 10)]
    if wrong:
        raise ValueError(f"{attribute.name!r}: {wrong[0]!r} must be the id of a token")
    far = [token for token, bias in value.items() if not -100 <= bias <= 100]
    if far:
        raise ValueError(f"{attribute.name!r}: {far[0]}: must be from -100 to 100: {value[far[0]]}")


@frozen
class LogitBiasOptions:
    bias: Mapping[str, float] = field(factory=dict, validator=_tokens)
    """What is added to the logit of each token, by its id: -100 bans it as good as, 100 leaves nothing else. Empty
    changes nothing. The bounds are OpenAI's: any logit lies well within them."""


@frozen
class CountPenaltyOptions:
    frequency: float = field(default=0.0, validator=[validators.ge(-2), validators.le(2)], metadata={"unit": "logits"})
    """What is taken off the logit of a token for every time it came in the output, not in the prompt; below 0 has
    tokens come again. 0 changes nothing; the bounds are OpenAI's."""
    presence: float = field(default=0.0, validator=[validators.ge(-2), validators.le(2)], metadata={"unit": "logits"})
    """What is taken off once the token came at all. 0 changes nothing; the bounds are OpenAI's."""


@hookimpl
def llmx_samplers() -> Iterable[Component]:
    return [
        Component(
            name="greedy",
            target="llmx_samplers.filters:greedy",
            summary="the best token always, the first of them on a tie",
        ),
        Component(
            name="temperature",
            target="llmx_samplers.filters:temperature",
            options=TemperatureOptions,
            summary="divides the logits: below 1 sharpens, above 1 flattens",
        ),
        Component(
            name="top-k",
            target="llmx_samplers.filters:top_k",
            options=TopKOptions,
            summary="keeps the k best tokens",
        ),
        Component(
            name="top-p",
            target="llmx_samplers.filters:top_p",
            options=TopPOptions,
            summary="keeps the smallest set of tokens whose probability reaches p (nucleus sampling)",
        ),
        Component(
            name="min-p",
            target="llmx_samplers.filters:min_p",
            options=MinPOptions,
            summary="keeps tokens at least p times as likely as the best",
        ),
        Component(
            name="repetition-penalty",
            target="llmx_samplers.history:RepetitionPenalty",
            options=RepetitionPenaltyOptions,
            summary="makes tokens that were seen less likely (CTRL, Keskar et al. 2019)",
        ),
        Component(
            name="no-repeat-ngram",
            target="llmx_samplers.history:NoRepeatNgram",
            options=NoRepeatNgramOptions,
            summary="never completes an n-gram that the sequence already holds",
        ),
        Component(
            name="logit-bias",
            target="llmx_samplers.additive:LogitBias",
            options=LogitBiasOptions,
            summary="makes single tokens likelier or less likely",
        ),
        Component(
            name="count-penalty",
            target="llmx_samplers.additive:CountPenalty",
            options=CountPenaltyOptions,
            summary="takes off logits for each time a token came in the output (frequency and presence)",
        ),
    ]
