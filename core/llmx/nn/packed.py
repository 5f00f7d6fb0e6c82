"""Make a model ready for inference, in place: weights fused, brought to a type and laid out for their product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from llmx.errors import RecipeError
from llmx.nn.attention import Attention
from llmx.nn.decoder import Decoder
from llmx.nn.huge_pages import use_huge_pages
from llmx.nn.mlp import SwiGLU
from llmx.nn.packed_cuda import CudaInt4Linear, CudaInt8Linear
from llmx.nn.packed_formats import (
    GROUP,
    BlockedLinear,
    Int4Linear,
    Int8Linear,
    PackedLinear,
    PlainInt8Linear,
    PlainLinear,
)

Weights = Literal["bf16", "int8", "int4"]

SIZES = (*range(2, 17), 32, 64)
"""Sequences in one product for which it is proved that none alters another; a step with others takes several."""
ROWS = SIZES[-1]

LARGE_BYTES = 2**25
"""Of a weight so large, every third row is looked at."""

NEAR = 0.25
"""Most relative error of a packed product: int4 makes 0.1, and a weight in another layout than is thought above 1."""


def pack(
    model: nn.Module,
    weights: Weights | None = None,
    device: torch.device | None = None,
    *,
    compiled: bool = False,
) -> None:
    """Fuse and pack the linear layers of a model and its head, one layer at a time, and release the weights they had.

    A model cannot be trained, saved or packed again afterwards. A layer that an adapter wraps keeps its wrapper; the
    layer within is packed. A tied head is packed beside the embedding, which stays a table of rows.

    Args:
        weights: their type; int8 and int4 compute in bf16. None: as they are stored. In int4, a layer whose
            input features are not a multiple of 32 is held in int8.
        device: where the model computes; None: where it is.
        compiled: torch.compile will see the model: weights stay in a layout that it can read.

    Raises:
        RecipeError: there is no such type, or this device has no right product for it.
    """
    if weights is not None and weights not in get_args(Weights):
        raise RecipeError(f"weights: {weights!r}: no such type; there are: {', '.join(get_args(Weights))}")
    model.requires_grad_(False).eval()
    place = _Place(weights, next(model.parameters()).device if device is None else device, compiled)
    with torch.no_grad():
        if isinstance(model, Decoder) and _head_is_plain(model):
            model.packed_head = place.packed([model.head_weight()], [None])
            model.lm_head = None
        for module in [each for each in model.modules() if type(each) is not nn.Linear]:  # these are let go of
            if isinstance(module, Attention) and _fuse(module, "qkv_proj", ("q_proj", "k_proj", "v_proj"), place):
                module.fuse_norms()
            elif isinstance(module, SwiGLU):
                _fuse(module, "gate_up_proj", ("gate_proj", "up_proj"), place)
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, place.packed([child.weight], [child.bias]))
            _bring_own(module, place)
    model.rows_alone = True  # type: ignore[assignment]  # a mark, not a module
    if place.device.type == "cpu":
        use_huge_pages(each.region() for each in model.modules() if isinstance(each, PackedLinear))


def packed_bytes(model: nn.Module) -> int:
    """Return the bytes of what `pack` made of a model's weights; the parameters that are left are not counted."""
    return sum(each.nbytes() for each in model.modules() if isinstance(each, PackedLinear))


def _head_is_plain(model: Decoder) -> bool:
    return type(model.lm_head) is nn.Linear or (
        model.lm_head is None and type(model.model.embed_tokens) is nn.Embedding
    )


def _fuse(module: nn.Module, name: str, parts: tuple[str, ...], place: _Place) -> bool:
    """Put one layer in the place of several that read the same input, where all of them are plain; say whether."""
    linears = [getattr(module, part) for part in parts]
    if not all(type(each) is nn.Linear and each.weight.dtype == linears[0].weight.dtype for each in linears):
        return False
    if len({each.bias is None for each in linears}) > 1:
        return False
    for part in parts:
        delattr(module, part)
    setattr(module, name, place.packed([each.weight for each in linears], [each.bias for each in linears]))
    return True


def _bring_own(module: nn.Module, place: _Place) -> None:
    """Bring the parameters and buffers that are a module's own to their type and device."""
    for parameter in module.parameters(recurse=False):
        parameter.data = place.brought(parameter.data)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, place.brought(buffer))


class _Place:
    """Where and how weights are to be: makes layers, and proves each form and shape once."""

    def __init__(self, weights: Weights | None, device: torch.device, compiled: bool) -> None:
        self.weights = weights
        self.device = device
        self.compiled = compiled
        self._alone: dict[tuple[object, ...], bool] = {}

    def brought(self, tensor: Tensor) -> Tensor:
        changes = self.weights is not None and tensor.is_floating_point()
        return tensor.to(self.device, torch.bfloat16 if changes else tensor.dtype)

    def packed(self, weights_NK: Iterable[Tensor], biases_N: Iterable[Tensor | None]) -> PackedLinear:
        """Return one layer whose outputs are those of all given, one after another."""
        staged = [self._staged(each.detach()) for each in weights_NK]
        weight_NK = staged[0] if len(staged) == 1 else torch.cat(staged)
        biases = [self.brought(each.detach()) for each in biases_N if each is not None]
        kind = self._kind(weight_NK)
        made = kind(weight_NK, torch.cat(biases) if biases else None)
        key = (kind, weight_NK.shape, weight_NK.dtype)
        if key not in self._alone:
            self._alone[key] = _rows_alone(made, weight_NK)
        made.rows_alone = self._alone[key]
        return made

    def _staged(self, weight_NK: Tensor) -> Tensor:
        """Return a weight on its device; one that will be int8 or int4 keeps its type, which may be more exact."""
        return weight_NK.to(self.device) if self.weights in ("int8", "int4") else self.brought(weight_NK)

    def _kind(self, weight_NK: Tensor) -> type[PackedLinear]:
        if self.weights in ("int8", "int4"):
            narrow = self.weights == "int4" and weight_NK.shape[1] % GROUP == 0
            if self.device.type == "cpu":
                return Int4Linear if narrow else PlainInt8Linear if self.compiled else Int8Linear
            if self.device.type == "cuda":
                return CudaInt4Linear if narrow and CudaInt4Linear.takes(weight_NK) else CudaInt8Linear
            raise RecipeError(f"weights: {self.weights!r} is for cpu and cuda, not for {self.device.type}: use bf16")
        fits = weight_NK.dtype == torch.bfloat16 and weight_NK.device.type == "cpu" and not self.compiled
        return BlockedLinear if fits and torch.ops.mkldnn._is_mkldnn_bf16_supported() else PlainLinear


def _rows_alone(layer: PackedLinear, weight_NK: Tensor) -> bool:
    """Return whether a row of a product is the same to the bit however many others there are, for up to 64.

    Raises:
        RecipeError: the product is not the one of the weight: this device computes it otherwise than it says.
    """
    draw = torch.Generator().manual_seed(0)
    x_MK = torch.randn(ROWS, layer.in_features, generator=draw)
    dtype = weight_NK.dtype if isinstance(layer, PlainLinear) else torch.bfloat16
    x_MK = x_MK.to(weight_NK.device, dtype)
    step = 1 if weight_NK.nbytes <= LARGE_BYTES else 3  # one row of a large head is read in 30 ms
    singles = {row: layer.product(x_MK[row : row + 1]) for row in range(0, ROWS, step)}
    for y_MN in (singles[0], layer.product(torch.cat((x_MK, x_MK)))):  # few rows and many go by other formulas
        _check_near(layer, y_MN[:1, :256], x_MK[:1].float() @ weight_NK[:256].float().T)
    for rows in SIZES:
        y_MN = layer.product(x_MK[:rows])
        if not all(torch.equal(y_MN[row], one[0]) for row, one in singles.items() if row < rows):
            return False
    return True


def _check_near(layer: PackedLinear, given: Tensor, want: Tensor) -> None:
    bias_N = 0 if layer.held_bias is None else layer.held_bias[:256]
    error = ((given - bias_N - want).norm() / want.norm().clamp_min(1e-30)).item()
    if not error < NEAR:
        raise RecipeError(
            f"weights: {type(layer).__name__} of {layer.out_features} x {layer.in_features} computes wrongly on "
            f"{want.device.type} (relative error {error:.3g}): use another type"
        )
