"""Adapters: lora, in PEFT's form, and the 4-bit and 8-bit bases it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen, validators

from llmx import Component, hookimpl

Compute = Literal["auto", "fp32", "bf16", "fp16"]

_FINITE = [validators.gt(0), validators.lt(float("inf"))]
_RANK = validators.optional(validators.ge(1))


@frozen
class LoraOptions:
    """A field that is not set is the one of `pretrained`, or its default."""

    rank: int | None = field(default=None, validator=_RANK, metadata={"unit": "dimensions"})
    """Rank of the change to each layer, which trains rank * (inputs + outputs) numbers. Unset, 16: enough for a style
    or a task; 64 and more for new knowledge."""
    alpha: float | None = field(default=None, validator=validators.optional(_FINITE))
    """The change is scaled by alpha / rank. Unset, twice the rank, as is usual."""
    dropout: float | None = field(
        default=None, validator=validators.optional([validators.ge(0), validators.lt(1)]), metadata={"unit": "part"}
    )
    """Part of a layer's inputs that its change does not see, drawn anew at each step. Unset, 0; 0.05 helps where rows
    are few."""
    rslora: bool | None = None
    """Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones (Kalajdzievski 2023). Unset, off."""
    dora: bool | None = None
    """Learn the length of each output's weights by itself (Liu et al. 2024); a little better at small ranks, and
    slower. Unset, off."""
    targets: tuple[str, ...] | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """Layers that are adapted: roles ("hidden", "head") or patterns of module names ("q_proj", "*.mlp.*"). Unset, every
    linear layer of the blocks, which does better than the attention's alone."""
    modules_to_save: tuple[str, ...] | None = None
    """Patterns of module names that are trained and saved whole beside the changes, as "lm_head". Unset, none."""
    init: Literal["default", "gaussian"] = "default"
    """How A begins; B begins with 0, and so the model as its base. "default" is PEFT's, uniform over
    +-1 / sqrt(inputs); "gaussian" is normal with the deviation 1 / rank."""
    pretrained: str | None = None
    """A folder in PEFT's form (adapter_config.json and safetensors) to go on from."""


@frozen
class Nf4Options:
    double_quant: bool = True
    """Keep the scale of each block in 8 bits too: 4.13 instead of 4.5 bits a weight, for hardly any error."""
    block_size: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = field(default=64, metadata={"unit": "weights"})
    """Weights that share a scale. 64 is the paper's (Dettmers et al. 2023); more is smaller and coarser."""
    compute: Compute = "auto"
    """Type of the products with unpacked weights: "fp32", "bf16" or "fp16". "auto" is that of the step
    (`train.precision`); a merged model has the type of its base."""
    skip: tuple[str, ...] = ()
    """Patterns of modules that stay as they are, as "down_proj" or "*.layers.0.*"; embedding and head always do."""


@frozen
class Int8Options:
    compute: Compute = "auto"
    """Type of the products with unpacked weights: "fp32", "bf16" or "fp16". "auto" is that of the step
    (`train.precision`); a merged model has the type of its base."""
    skip: tuple[str, ...] = ()
    """Patterns of modules that stay as they are, as "down_proj" or "*.layers.0.*"; embedding and head always do."""


@hookimpl
def llmx_adapters() -> Iterable[Component]:
    return [
        Component(
            name="lora",
            target="llmx_lora.lora:Lora",
            options=LoraOptions,
            summary="LoRA (Hu et al. 2021), rsLoRA and DoRA, in PEFT's form",
        ),
        Component(
            name="nf4",
            target="llmx_lora.quantise:Nf4",
            options=Nf4Options,
            summary="frozen weights of the blocks in 4 bits (QLoRA, Dettmers et al. 2023), by bitsandbytes",
        ),
        Component(
            name="int8",
            target="llmx_lora.quantise:Int8",
            options=Int8Options,
            summary="frozen weights of the blocks in 8 bits with a scale for each row, by bitsandbytes",
        ),
    ]
