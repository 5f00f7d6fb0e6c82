"""Learning-rate schedules: cosine, linear, polynomial, constant, wsd, each after a linear warm-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen, validators

from llmx import Component, hookimpl

_FRACTION = [validators.ge(0), validators.le(1)]


@frozen
class WarmupOptions:
    warmup_steps: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """Updates over which the rate rises in equal parts to its peak, which the last of them has; 0 for none. When
    it is not given `warmup_ratio` decides, so that a recipe keeps its shape when the run gets longer."""
    warmup_ratio: float = field(default=0.1, validator=_FRACTION, metadata={"unit": "fraction of the steps"})
    """Warm-up as a part of the whole run, used when `warmup_steps` is not given. A tenth gives Adam's averages tens
    of updates to settle even in a run of a few hundred."""


@frozen
class DecayOptions(WarmupOptions):
    final_ratio: float = field(default=0.0, validator=_FRACTION, metadata={"unit": "fraction of the peak"})
    """Rate that the decay leads to: the update after the last one would have it, so even at 0 no update of the run
    is wasted. 0 trains best when the run is not continued (Bergsma et al. 2025)."""


@frozen
class PolynomialOptions(DecayOptions):
    power: float = field(default=2.0, validator=[validators.gt(0), validators.lt(float("inf"))])
    """Exponent of the part of the run that is left: 1 is linear, more falls sooner. 2 spends more of the run at
    small rates than linear does, and ends more gently."""


@frozen
class WsdOptions(DecayOptions):
    decay_ratio: float = field(default=0.2, validator=_FRACTION, metadata={"unit": "fraction of the steps"})
    """Part of the whole run, at its end, over which the rate falls; before it the rate is the peak. With 0.2 it
    matches a cosine of the same length (Hägele et al. 2024)."""
    shape: Literal["linear", "sqrt"] = "linear"
    """How it falls: "linear", the plain choice, or "sqrt", which is 1 - sqrt(part of the decay that is done) and
    falls fast first."""


@hookimpl
def llmx_schedulers() -> Iterable[Component]:
    return [
        Component(
            name="cosine",
            target="llmx_schedulers.curves:cosine",
            options=DecayOptions,
            summary="warm-up, then half a cosine down (Loshchilov & Hutter 2017)",
        ),
        Component(
            name="linear",
            target="llmx_schedulers.curves:linear",
            options=DecayOptions,
            summary="warm-up, then a straight line down",
        ),
        Component(
            name="polynomial",
            target="llmx_schedulers.curves:polynomial",
            options=PolynomialOptions,
            summary="warm-up, then a power of the steps that are left",
        ),
        Component(
            name="constant",
            target="llmx_schedulers.curves:constant",
            options=WarmupOptions,
            summary="warm-up, then the peak until the end",
        ),
        Component(
            name="wsd",
            target="llmx_schedulers.curves:wsd",
            options=WsdOptions,
            summary="warm-up, stable, decay: the peak until the last part of the run (Hu et al. 2024)",
        ),
    ]
