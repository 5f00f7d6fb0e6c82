"""What a model is trained to do: `causal-lm`."""

from __future__ import annotations

from llmx import Component, hookimpl


@hookimpl
def llmx_objectives() -> list[Component]:
    return [
        Component(
            name="causal-lm",
            target="llmx_objectives.causal:causal_lm",
            summary="predict each next token: cross-entropy in nats",
        )
    ]
