"""A tiny Llama of transformers, and ours with its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmx import Registry
from llmx.options import structure

Pair = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="session")
def llama() -> Pair:
    """Return new models of one set of weights: transformers', and llmx's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    offer = Registry().find("model", "tinyllm", "test")
    made: dict[bool, Any] = {}

    def pair(*, tied: bool = False) -> tuple[Any, Any]:
        if tied not in made:
            torch.manual_seed(5)
            config = LlamaConfig(
                vocab_size=320,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=tied,
                initializer_range=0.2,
            )
            made[tied] = LlamaForCausalLM(config).eval()
        theirs = copy.deepcopy(made[tied])
        ours = offer.component.load().from_config(theirs.config.to_dict())
        weights = {name: value.clone() for name, value in theirs.state_dict().items() if name not in ours.tied_names}
        ours.load_state_dict(weights)
        return theirs, ours.eval()

    return pair


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Return an adapter by its name and options."""

    def make(name: str, **options: Any) -> Any:
        component = Registry().find("adapter", name, "test").component
        values, faults = structure(component.options, options, f"adapter.{name}")
        assert not faults, faults
        return component.load()(values)

    return make


@pytest.fixture(scope="session")
def ids_BT() -> torch.Tensor:
    return torch.randint(97, (2, 16), generator=torch.Generator().manual_seed(3))
