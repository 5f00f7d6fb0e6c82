"""The model `transformers`: any causal language model of transformers, for the families that have no plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import field, frozen

from llmx import Component, hookimpl


@frozen
class TransformersOptions:
    """The shape of a model with random weights; one that is trained already is read with `model.pretrained`."""

    config: Path | None = None
    """A config.json, or a folder that holds one, whose shape is built; no weights are read. None where `model_type`
    says the family."""
    model_type: str | None = None
    """Family as config.json names it: "mistral", "gpt2", "phi3", "gemma". None where `config` says it."""
    fields: dict[str, Any] = field(factory=dict)
    """Fields of the config, by the family's own names, over those of `config` or the family's defaults, which are those
    of a model of billions of parameters. The vocabulary is the tokenizer's where `vocab_size` is not among them."""

    def __attrs_post_init__(self) -> None:
        if (self.config is None) == (self.model_type is None):
            raise ValueError('give one of config (a folder or config.json) and model_type ("mistral", "gpt2", …)')


@hookimpl
def llmx_models() -> list[Component]:
    return [
        Component(
            name="transformers",
            target="llmx_transformers.build:build",
            options=TransformersOptions,
            summary="any causal language model of transformers: pip install 'llmx[transformers]'",
            handles=("*",),
        )
    ]
