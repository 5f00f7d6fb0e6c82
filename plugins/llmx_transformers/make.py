"""A config's class is looked up in transformers itself, and becomes a model of ours; no other code is ever run."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from llmx.errors import LlmxError
from llmx_transformers.bridged import BridgedModel, bridged
from llmx_transformers.fitness import config_faults, model_faults

OWN_CHOICE = ("_attn_implementation", "attn_implementation", "experts_implementation", "_experts_implementation")
"""Keys of a config.json that choose kernels, some of which transformers would fetch from the hub and run."""

LONGEST = 300
"""Characters that are told of an error of transformers."""


def make(values: dict[str, Any], fault: type[LlmxError], where: str) -> BridgedModel:
    """Return the model of the values of a config.json, with random weights.

    Args:
        fault: what is raised where there is no such family or it does not fit.
        where: begins the message.
    """
    for text in config_faults(values):
        raise fault(f"{where}: {text}")
    name = values["model_type"]
    if name not in CONFIG_MAPPING:
        raise fault(f"{where}: model_type = {name!r}: neither a plugin nor this version of transformers has it")
    try:
        config = CONFIG_MAPPING[name].from_dict({key: value for key, value in values.items() if key not in OWN_CHOICE})
        alone = config.get_text_config() is config and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if alone else None
        model = None if cls is None else bridged(cls)(_quiet(config))
    except Exception as error:  # transformers' own checks raise whatever they like
        text = " ".join(str(error).split())
        raise fault(f"{where}: model_type = {name!r}: {type(error).__name__}: {text[:LONGEST]}") from error
    if cls is None or model is None:
        raise fault(f"{where}: model_type = {name!r}: is no language model of text alone in transformers")
    for text in model_faults(model, cls):
        raise fault(f"{where}: model_type = {name!r}: {text}")
    model.become_ours()
    return model


def _quiet(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a config with which a forward returns hidden states and nothing else."""
    config.use_cache = False
    for name in ("output_hidden_states", "output_attentions"):
        setattr(config, name, False)
    return config
