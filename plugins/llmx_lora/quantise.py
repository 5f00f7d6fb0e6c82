"""The adapters nf4 and int8: the linear layers of the blocks, frozen and packed by bitsandbytes.

Shapes: `I` inputs, `O` outputs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmx.errors import RecipeError
from llmx.nn.adapted import adapted_modules
from llmx.nn.shapes import only_shape
from llmx_lora import bnb
from llmx_lora.linear import plain_linear
from llmx_lora.pages import let_go
from llmx_lora.product import FrozenProduct, product_dtype, step_dtype
from llmx_lora.targets import hidden_linears, put

if TYPE_CHECKING:
    from llmx_lora import Int8Options, Nf4Options

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SCALES = 256
"""Scales that share one of their own under double quantisation (bitsandbytes' choice, and the paper's)."""


class PackedLinear(nn.Module):
    """A frozen linear layer whose weight is unpacked for each product.

    Not bitsandbytes' own layers: on a CPU with AVX512_BF16 those pack themselves anew in an evaluation, for a kernel
    without a backward, and the next training step has no gradients; and they keep more for the backward.
    """

    def __init__(self, base: nn.Linear, compute: str) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.product_dtype = DTYPES.get(compute)
        self.merged_dtype = base.weight.dtype
        self.bias = base.bias

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return `weight_OI` in a type."""
        if only_shape(self.packed):
            return self.packed.new_empty(self.out_features, self.in_features, dtype=dtype)
        return self.unpacked(dtype)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return `weight_OI` in a type, from what is packed."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = FrozenProduct.apply(x, self, product_dtype(self, x))
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        return y.to(step_dtype(x))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain layer with the unpacked weight."""
        return plain_linear(self.dense(self.merged_dtype), self.bias)


class Nf4Linear(PackedLinear):
    """4 bits a weight: the nearest of 16 quantiles of the normal distribution, times the largest of its block."""

    def __init__(self, base: nn.Linear, options: Nf4Options, device: torch.device) -> None:
        super().__init__(base, options.compute)
        self.block_size, self.double = options.block_size, options.double_quant
        packed = _sizes(base, options) if base.weight.is_meta else _pack(base, options, device)
        let_go(base.weight)
        for name, value in packed.items():
            self.register_buffer(name, value)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        state = bnb.QuantState(
            self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=_nf4_code(self.packed.device),
            blocksize=self.block_size,
            quant_type="nf4",
            dtype=dtype,
        )
        if self.double:
            code = _scale_code(self.packed.device)
            state.absmax = bnb.dequantize_blockwise(
                self.absmax, absmax=self.absmax_scale, code=code, blocksize=SCALES
            ).add_(self.absmax_mean)
        weight_OI: Tensor = bnb.dequantize_4bit(self.packed, state)
        return weight_OI


@functools.cache
def _nf4_code(device: torch.device) -> Tensor:
    code: Tensor = bnb.get_4bit_type("nf4", device=device)
    return code


@functools.cache
def _scale_code(device: torch.device) -> Tensor:
    code: Tensor = bnb.create_dynamic_map().to(device)
    return code


def _pack(base: nn.Linear, options: Nf4Options, device: torch.device) -> dict[str, Tensor]:
    """Return the packed weight and its scales, made on `device`: the whole model never is there unpacked."""
    weight_OI = base.weight.detach().to(device)
    packed, state = bnb.quantize_4bit(weight_OI, blocksize=options.block_size, quant_type="nf4")
    if not options.double_quant:
        return {"packed": packed, "absmax": state.absmax}
    mean = state.absmax.mean()
    absmax, nested = bnb.quantize_blockwise(state.absmax - mean, code=_scale_code(device), blocksize=SCALES)
    return {"packed": packed, "absmax": absmax, "absmax_scale": nested.absmax, "absmax_mean": mean}


def _sizes(base: nn.Linear, options: Nf4Options) -> dict[str, Tensor]:
    """Return what `_pack` does, as shapes on the meta device."""
    count = base.weight.numel()
    blocks = -(-count // options.block_size)
    empty = functools.partial(torch.empty, device="meta")
    packed = {"packed": empty(-(-count // 2), 1, dtype=torch.uint8)}
    if not options.double_quant:
        return {**packed, "absmax": empty(blocks)}
    scales = {"absmax": empty(blocks, dtype=torch.uint8), "absmax_scale": empty(-(-blocks // SCALES))}
    return {**packed, **scales, "absmax_mean": empty(())}


class Int8Linear(PackedLinear):
    """8 bits a weight: whole numbers to 127, times the largest of its row over 127 (LLM.int8's weights)."""

    def __init__(self, base: nn.Linear, options: Int8Options, device: torch.device) -> None:
        super().__init__(base, options.compute)
        if base.weight.is_meta:
            packed = torch.empty_like(base.weight, dtype=torch.int8)
            absmax_O = torch.empty(base.out_features, device="meta")
        else:
            weight_OI = base.weight.detach().to(device)
            # the CUDA kernel takes fp16 alone
            packed, absmax_O, _ = bnb.int8_vectorwise_quant(weight_OI.half() if device.type == "cuda" else weight_OI)
            let_go(base.weight)
        self.register_buffer("packed", packed)
        self.register_buffer("absmax", absmax_O)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        weight_OI = torch.empty_like(self.packed, dtype=dtype)
        return torch.mul(self.packed, (self.absmax / 127)[:, None], out=weight_OI)  # in fp32, rounded once


class Quantiser:
    """Freezes a model and packs the linear layers of its blocks."""

    identity = False
    quantises = True
    """Merged, the model is as large as before, and not the one it was."""
    layer: type[Any]

    def __init__(self, options: Any) -> None:
        self.options = options

    def apply(self, model: Any, device: torch.device) -> Any:
        """Return the model with its layers packed on `device`, one after another.

        Raises:
            RecipeError: an adapter that is trained came before, and would be frozen.
        """
        if adapted_modules(model):
            raise RecipeError("adapter: name nf4 or int8 before lora: what is quantised is frozen")
        model.requires_grad_(False)
        for name, layer in hidden_linears(model, self.options.skip):
            put(model, name, self.layer(layer, self.options, device))
        return model

    def merge(self, model: Any) -> Any:
        """Return the model with plain layers, their weights as they were unpacked."""
        for name, layer in [(name, each) for name, each in model.named_modules() if isinstance(each, self.layer)]:
            put(model, name, layer.merged())
        return model


class Nf4(Quantiser):
    """Blocks of weights in 4 bits."""

    layer = Nf4Linear


class Int8(Quantiser):
    """Rows of weights in 8 bits."""

    layer = Int8Linear
