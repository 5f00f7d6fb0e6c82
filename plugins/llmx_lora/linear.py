"""Layers that adapters put in place of others: a linear layer with a change of low rank, and a module trained whole.

Shapes: `I` inputs, `O` outputs, `R` rank.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx.nn.adapted import Adapted
from llmx_lora.product import LowRankProduct, dense, has_dense, no_autocast, product_dtype, step_dtype


class Factor(nn.Module):
    """A matrix under the name PEFT gives it: `lora_A.weight`."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        super().__init__()
        # fp32, whatever the base is: bf16 would swallow small updates
        self.weight = nn.Parameter(torch.zeros(rows, columns, dtype=torch.float32, device=device))


class LoraLinear(Adapted):
    """A frozen linear layer plus scale * B A, and with DoRA each output's weights at a learnt length."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, dora: bool) -> None:
        super().__init__()
        self.base_layer: Any = base
        self.in_features, self.out_features = int(self.base_layer.in_features), int(self.base_layer.out_features)
        self.rank, self.scale, self.dropout = rank, scale, dropout
        device = next((each.device for each in (*base.parameters(), *base.buffers())), torch.device("cpu"))
        self.lora_A = Factor(rank, self.in_features, device)
        self.lora_B = Factor(self.out_features, rank, device)
        self.lora_magnitude_vector = nn.Parameter(self._lengths()) if dora else None
        self.factor_O: Tensor | None = None
        """Where the change stands in the base's weight: what each of its rows was multiplied with."""

    def draw(self, init: Literal["default", "gaussian"]) -> None:
        """Begin A with draws from torch's global generator on the host: a seed means the same on every device."""
        weight = self.lora_A.weight
        if weight.device.type == "meta":
            return
        drawn_RI = torch.empty(weight.shape, device="cpu")
        if init == "gaussian":
            nn.init.normal_(drawn_RI, std=1 / self.rank)
        else:
            nn.init.kaiming_uniform_(drawn_RI, a=math.sqrt(5))
        weight.data.copy_(drawn_RI)

    def forward(self, x: Tensor) -> Tensor:
        if not self.adapted or self.factor_O is not None:
            y: Tensor = self.base_layer(x)
            return y
        dropout = self.dropout if self.training else 0.0
        if self.lora_magnitude_vector is not None:
            return self._dora(x, dropout)
        if torch.compiler.is_compiling() or not has_dense(self.base_layer):  # the compiler cannot see into a function
            return self.base_layer(x) + self.scale * self._low_rank(F.dropout(x, dropout))
        a_RI, b_OR = self.lora_A.weight, self.lora_B.weight
        dtype = product_dtype(self.base_layer, x)
        y = LowRankProduct.apply(x, a_RI, b_OR, self.base_layer, self.scale, dropout, dtype)
        return y.to(step_dtype(x))

    def _low_rank(self, x: Tensor) -> Tensor:
        dtype = step_dtype(x)
        return F.linear(F.linear(x.to(dtype), self.lora_A.weight.to(dtype)), self.lora_B.weight.to(dtype))

    def _dora(self, x: Tensor, dropout: float) -> Tensor:
        """PEFT's arrangement: what dropout takes from the change, the base keeps at its own length."""
        y = self.base_layer(x)
        factor_O = (self.lora_magnitude_vector / self._lengths()).to(y.dtype)
        seen = F.dropout(x, dropout)
        base_O = self.base_layer(seen) if dropout else y
        if self.base_layer.bias is not None:
            base_O = base_O - self.base_layer.bias.to(y.dtype)
        return y + (factor_O - 1) * base_O + factor_O * (self.scale * self._low_rank(seen)).to(y.dtype)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """Return the length of each row of W + scale B A, in fp32; no gradient goes through it (Liu et al., 4.3)."""
        weight_OI = dense(self.base_layer, torch.float32)
        return torch.linalg.norm(weight_OI + self._change(), dim=1)

    def _change(self) -> Tensor:
        with no_autocast(self.lora_A.weight):
            return self.scale * (self.lora_B.weight @ self.lora_A.weight)

    def whole(self) -> Tensor:
        """Return the weight of the adapted layer, `weight_OI` in fp32, with its gradient."""
        if self.factor_O is not None:
            return dense(self.base_layer, torch.float32)
        weight_OI = dense(self.base_layer, torch.float32) + self._change()
        if self.lora_magnitude_vector is not None:
            weight_OI = (self.lora_magnitude_vector / self._lengths())[:, None] * weight_OI
        return weight_OI

    @property
    def weight(self) -> Tensor:
        """What a model multiplies with by itself, as it does with its head."""
        base = self.base_layer.weight
        return self.whole().to(base.dtype) if self.adapted else base

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base_layer.bias
        return bias

    @torch.no_grad()
    def fold(self) -> None:
        """Put the change into the weight of a plain base, for forwards at the base's cost; `unfold` takes it out."""
        if self.factor_O is None:
            magnitude, rows = self.lora_magnitude_vector, self._lengths()
            folded_OI, kept = self.whole(), self.base_layer.weight
            self.factor_O = torch.ones_like(rows) if magnitude is None else magnitude / rows
            self.base_layer.weight = nn.Parameter(folded_OI.to(kept.dtype), requires_grad=False)

    @torch.no_grad()
    def unfold(self) -> None:
        """Take the change out of the base's weight: what it was, to the rounding of its type."""
        if self.factor_O is not None:
            folded = self.base_layer.weight
            weight_OI = folded.float() / self.factor_O[:, None] - self._change()
            self.base_layer.weight = nn.Parameter(weight_OI.to(folded.dtype), requires_grad=False)
            self.factor_O = None

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain layer with the change in its weight, of the type that the base has or had."""
        dtype = getattr(self.base_layer, "merged_dtype", None) or self.base_layer.weight.dtype
        return plain_linear(self.whole().to(dtype), self.bias)


def plain_linear(weight_OI: Tensor, bias_O: Tensor | None) -> nn.Linear:
    """Return a linear layer of these weights, not trained."""
    outputs, inputs = weight_OI.shape
    layer = nn.Linear(inputs, outputs, bias=bias_O is not None, device="meta")
    layer.weight = nn.Parameter(weight_OI.detach(), requires_grad=False)
    if bias_O is not None:
        layer.bias = nn.Parameter(bias_O.detach(), requires_grad=False)
    return layer


class SavedModule(Adapted):
    """A module that is trained whole, in fp32, and the one it was, by PEFT's names."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original_module: Any = original
        self.modules_to_save: Any = copy.deepcopy(original).float().requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        original: Any = self.original_module
        if not self.adapted:
            y: Tensor = original(x)
            return y
        if x.is_floating_point() and step_dtype(x) == x.dtype:  # no autocast will bring the types together
            x = x.float()
        return self._as_before(self.modules_to_save(x))

    def _as_before(self, value: Tensor) -> Tensor:
        """Return a value in the type of a base that is not in fp32: what follows expects that."""
        dtype = next(self.original_module.parameters()).dtype
        return value if dtype == torch.float32 else value.to(dtype)

    def __getattr__(self, name: str) -> Any:
        """Return what the module in use has, where a model asks for a weight or a size."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            used = self.__dict__["_modules"]["modules_to_save" if self.adapted else "original_module"]
            value = getattr(used, name)
            return self._as_before(value) if self.adapted and isinstance(value, Tensor) else value

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the trained module in the type of the one it was."""
        kept: nn.Module = self.original_module
        for name, value in self.modules_to_save.named_parameters():
            kept.get_parameter(name).data = value.detach().to(kept.get_parameter(name).dtype)
        return kept
