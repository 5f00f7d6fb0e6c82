"""What keeps a model of transformers from being one of ours, found before a token is seen."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

PROBE = 1000.0
"""Spread of the logits that are sent through what follows a head: wide enough to show a bound of any size."""


class Body(BaseModelOutputWithPast):
    """What a body returns, with None for all that is not asked of it."""

    def __getattr__(self, _: str) -> None:
        return None


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a config before anything is built from it."""
    if not isinstance(config.get("model_type"), str):
        yield f"model_type = {config.get('model_type')!r}: must name the family"
    if config.get("auto_map"):
        yield "auto_map names code of its own, which is never run: remove it where transformers itself has the family"
    if config.get("quantization_config"):
        yield "quantization_config: its weights are quantised: give the folder of the plain model, and an adapter"
    experts = [key for key, value in config.items() if _many_experts(key, value)]
    if experts:
        yield _experts(f"{experts[0]} = {config[experts[0]]}")


def _experts(what: str) -> str:
    return f"{what}: a mixture of experts has a loss that balances them, which is not made here"


def _many_experts(key: str, value: Any) -> bool:
    return "experts" in key and isinstance(value, int) and not isinstance(value, bool) and value > 1


def model_faults(model: Any, cls: type) -> Iterator[str]:
    """Yield what is wrong with a model that was just built, on whatever device.

    Args:
        cls: the class of transformers, whose forward is the reference.
    """
    experts = [key for key, value in model.config.to_dict().items() if _many_experts(key, value)]
    if experts:
        yield _experts(f"{experts[0]} = {getattr(model.config, experts[0])}")
    if getattr(model, "_is_stateful", False):
        yield "keeps a recurrent state, which packed documents would share"
    if not isinstance(getattr(model.config, "max_position_embeddings", None), int):
        yield "the config has no max_position_embeddings, the longest context: give it"
    if model.base_model is model or model.get_output_embeddings() is None:
        yield "has no head that can be told from the rest"
        return
    known = inspect.signature(model.base_model.forward).parameters
    if "position_ids" not in known:
        yield "takes no positions, which packed documents need"
    if not blocks_of(model):
        yield "its blocks are not found"
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        yield "its head has a bias; a loss is made from hidden states and the head's weight alone"
    elif fault := _what_the_head_does(model, cls):
        yield fault
    head = model.get_output_embeddings()
    if others := model.all_tied_weights_keys.keys() - {f"{name_of(model, head)}.weight"}:
        yield f"shares weights beside the head: {min(others)}"


def blocks_of(model: Any) -> Any:
    """Return the blocks: the first list of modules that has as many as the config says; None if there is none."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = (each for each in model.base_model.modules() if isinstance(each, torch.nn.ModuleList))
    return next((each for each in lists if len(each) == count), None)


def name_of(model: Any, wanted: Any) -> str:
    """Return the name of a module of a model."""
    return next(name for name, module in model.named_modules() if module is wanted)


def _what_the_head_does(model: Any, cls: Any) -> str:
    """Return what the forward of transformers does around the product with the head's weight; empty for nothing.

    The body and the head are replaced by numbers that are known, so that the forward shows what it does between them
    and after them, such as bounding (Gemma 2) or scaling (Cohere, Granite); this costs nothing, on the meta device too.
    """
    head, bodies = model.get_output_embeddings(), {model.base_model, model.get_decoder()}
    generator = torch.Generator().manual_seed(0)
    width = head.weight.shape[1]
    with torch.device("cpu"):
        hidden_BTD = torch.randn(1, 2, width, generator=generator)
        logits_BTV = PROBE * torch.randn(1, 2, head.weight.shape[0], generator=generator)
        ids_BT = torch.zeros(1, 2, dtype=torch.long)
    seen: list[Any] = []

    def head_forward(states: Any) -> Any:
        seen.append(states)
        return logits_BTV

    for body in bodies:
        body.forward = lambda *_, **__: Body(last_hidden_state=hidden_BTD)
    head.forward = head_forward
    try:
        found = cls.forward(model, input_ids=ids_BT, use_cache=False).logits
    finally:
        for module in (*bodies, head):
            del module.forward
    if len(seen) != 1 or seen[0].shape != hidden_BTD.shape or not torch.equal(seen[0], hidden_BTD):
        return "changes hidden states before the head; a loss is made from those that its body returns"
    if found.shape != logits_BTV.shape or not torch.equal(found, logits_BTV):
        return "changes logits after the head (it bounds or scales them); a loss is made from the head's weight alone"
    return ""
