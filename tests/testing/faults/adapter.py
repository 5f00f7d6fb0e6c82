"""Mistakes of adapter plugins, each of which a check of the kit must find; the right LoRA they begin from."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, nn

from llmx import Component


@frozen
class LoraOptions:
    rank: int = 4
    """Columns of A and rows of B."""
    alpha: float = 8.0
    """The change is scaled by alpha / rank."""
    targets: tuple[str, ...] = field(default=("q_proj", "v_proj", "down_proj"))
    """Last part of the names of the layers that are adapted."""


class LoraLinear(nn.Module):
    """A frozen linear layer and a change of low rank; the layer keeps its parameters' names."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__()
        device, rank = base.weight.device, options.rank
        self.weight, self.bias = base.weight, base.bias
        self.scale = options.alpha / rank
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features, device=device) * base.in_features**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def change(self) -> Tensor:
        return self.scale * self.lora_b @ self.lora_a

    def folded(self) -> nn.Linear:
        """Return a plain layer."""
        out, in_features = self.weight.shape
        plain = nn.Linear(in_features, out, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight.detach() + self.change().detach())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain


class Lora:
    """LoRA (Hu et al. 2021), right."""

    identity = True
    layer = LoraLinear

    def __init__(self, options: LoraOptions) -> None:
        self.options = options

    def apply(self, model: Any, device: torch.device) -> Any:
        model.requires_grad_(False)
        for parent, name, child in list(self.find(model, nn.Linear)):
            setattr(parent, name, self.layer(child, self.options))  # their roles: a decoder calls matrices hidden
        return model

    def find(self, model: Any, kind: type) -> Any:
        for module in model.modules():
            for name, child in module.named_children():
                if name in self.options.targets and isinstance(child, kind):
                    yield module, name, child

    def merge(self, model: Any) -> Any:
        for parent, name, child in list(self.find(model, LoraLinear)):
            setattr(parent, name, child.folded())
        return model


class StartsOff(LoraLinear):
    """Draws both matrices."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__(base, options)
        if base.weight.device.type != "meta":
            nn.init.normal_(self.lora_b, std=1e-3)


class ForgetsBias(LoraLinear):
    """Leaves the bias of the layer out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.bias is None else super().forward(x) - self.bias


class NotIdentity(Lora):
    """Says it begins as the identity, and does not."""

    layer = StartsOff


class WithoutBias(Lora):
    """Says it begins as the identity, and drops biases."""

    layer = ForgetsBias


class Wrapped(nn.Module):
    """A model in a module, under names with a prefix."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.base_model = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.base_model(*arguments, **named)


class Wraps(Lora):
    """Returns the model in a wrapper; its roles have the names from inside it."""

    def apply(self, model: Any, device: torch.device) -> Any:
        return Wrapped(super().apply(model, device))

    def merge(self, model: Any) -> Any:
        return super().merge(model.base_model)


class RolesOnce(Lora):
    """Writes its roles down before it adds its parameters."""

    def apply(self, model: Any, device: torch.device) -> Any:
        before = model.roles()
        model = super().apply(model, device)
        model.roles = lambda: before
        return model


class LastToken(LoraLinear):
    """Applies its change to all tokens of a sequence but the first: to none when they come one by one."""

    def forward(self, x: Tensor) -> Tensor:
        plain_BTD = F.linear(x, self.weight, self.bias)
        changed_BTD = super().forward(x)
        return torch.cat((plain_BTD[:, :1], changed_BTD[:, 1:]), 1)


class SkipsFirst(Lora):
    """Depends on where in its input a token stands."""

    layer = LastToken


class FreezesAll(Lora):
    """Freezes after it has added its parameters, so that nothing is trained."""

    def apply(self, model: Any, device: torch.device) -> Any:
        model = super().apply(model, device)
        return model.requires_grad_(False)


class ZeroBoth(LoraLinear):
    """Sets both matrices to zero: neither ever gets a gradient."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__(base, options)
        if base.weight.device.type != "meta":
            nn.init.zeros_(self.lora_a)


class NeverMoves(Lora):
    """Starts on a saddle."""

    layer = ZeroBoth


class OwnNames(Lora):
    """Numbers its adapters over the life of the process and puts the number into their names."""

    number = itertools.count()

    def apply(self, model: Any, device: torch.device) -> Any:
        model = super().apply(model, device)
        for _, _, child in list(self.find(model, LoraLinear)):
            child.register_parameter(f"lora_scale_{next(self.number)}", nn.Parameter(torch.ones(1)))
        return model


class SharesA(Lora):
    """Draws A once for all layers of a width and all models: training one trains the other."""

    def __init__(self, options: LoraOptions) -> None:
        super().__init__(options)
        self.shared: dict[int, nn.Parameter] = {}

    def apply(self, model: Any, device: torch.device) -> Any:
        model = super().apply(model, device)
        for parent, name, child in list(self.find(model, LoraLinear)):
            child.lora_a = self.shared.setdefault(hash((child.lora_a.shape, name, id(type(parent)))), child.lora_a)
            child.lora_b = self.shared.setdefault(hash((child.lora_b.shape, name)), child.lora_b)
        return model


class WithoutScale(LoraLinear):
    """Folds B A without alpha / rank."""

    def change(self) -> Tensor:
        return self.lora_b @ self.lora_a


class MergesUnscaled(Lora):
    """Leaves the scale out when it merges."""

    layer = WithoutScale


class RemembersLayers(Lora):
    """Merges the layers it remembers from `apply`, not those of the model it is given."""

    def apply(self, model: Any, device: torch.device) -> Any:
        model = super().apply(model, device)
        self.layers = list(self.find(model, LoraLinear))
        return model

    def merge(self, model: Any) -> Any:
        for parent, name, child in self.layers:
            setattr(parent, name, child.folded())
        return model


class LeavesBiasOut(LoraLinear):
    """Folds into a layer without the bias."""

    def folded(self) -> nn.Linear:
        plain = super().folded()
        plain.bias = None
        return plain


class MergesWithoutBias(Lora):
    """Loses the biases when it merges."""

    layer = LeavesBiasOut


class Residual(LoraLinear):
    """Takes its change out of the frozen weight at the start (as PiSSA does)."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__(base, options)
        if base.weight.device.type != "meta":
            nn.init.normal_(self.lora_b, std=0.1)
            self.weight = nn.Parameter(base.weight.detach() - self.change().detach(), requires_grad=False)

    def folded(self) -> nn.Linear:
        plain = super().folded()
        plain.weight = nn.Parameter(self.weight.detach() + 0.98 * self.change().detach())
        return plain


class MergesResidual(Lora):
    """Begins with a change that is not zero, and merges not quite all of it."""

    layer = Residual


class Scattered(LoraLinear):
    """Permutes the inputs of its change by a draw that no state dict holds."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__(base, options)
        self.register_buffer("order", torch.randperm(base.in_features, device=base.weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        added = F.linear(F.linear(x[..., self.order], self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * added


class HiddenOrder(Lora):
    """Keeps a part of itself out of its checkpoint."""

    layer = Scattered


class RanksByNumbers(Lora):
    """Chooses layers by the size of their weights, which the meta device does not have."""

    def find(self, model: Any, kind: type) -> Any:
        for parent, name, child in super().find(model, kind):
            if float(child.weight.detach().norm()) > 0:
                yield parent, name, child


class OnTheCpu(LoraLinear):
    """Makes its matrices on the CPU."""

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        super().__init__(base, options)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, options.rank, device="cpu"))


class DeviceWrittenOut(Lora):
    """Names a device where the model's own should be taken."""

    layer = OnTheCpu


class Unseeded(Lora):
    """Draws from a generator that the system seeds."""

    def apply(self, model: Any, device: torch.device) -> Any:
        model = super().apply(model, device)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        for _, _, child in list(self.find(model, LoraLinear)):
            if child.lora_a.device.type != "meta":
                nn.init.normal_(child.lora_a, std=0.1, generator=generator)
        return model


def _fault(check: str, cls: type, *values: Any) -> tuple[Any, ...]:
    name = cls.__name__.lower()
    return check, Component(name=name, target=f"llmx_faults_adapter:{cls.__name__}", options=LoraOptions), *values


FAULTS = [
    _fault("identity", NotIdentity),
    _fault("identity", WithoutBias),
    _fault("contract", Wraps),
    _fault("contract", RolesOnce),
    _fault("cached-decoding", SkipsFirst),
    _fault("trains", FreezesAll),
    _fault("trains", NeverMoves),
    _fault("applies-to-each", OwnNames),
    _fault("applies-to-each", SharesA),
    _fault("merge", MergesUnscaled),
    _fault("merge", RemembersLayers),
    _fault("merge", MergesWithoutBias),
    _fault("merge-untrained", MergesResidual),
    _fault("resume", HiddenOrder),
    _fault("meta-device", RanksByNumbers),
    _fault("meta-device", DeviceWrittenOut),
    _fault("seeded", Unseeded),
]

CRASHES = {"ranksbynumbers": "RuntimeError"}
"""Faults that show as an exception of their own, and which."""


# --- unusual, and right ---------------------------------------------------------------------------------------------


class Halved(nn.Module):
    """A linear layer whose weight was rounded to a 1/64 grid and frozen."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        rounded = (base.weight.detach() * 64).round() / 64
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = base.bias
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Quantiser(Lora):
    """Rounds weights, trains nothing by itself, and changes the model from the start."""

    identity = False

    def apply(self, model: Any, device: torch.device) -> Any:
        model.requires_grad_(False)
        for parent, name, child in list(self.find(model, nn.Linear)):
            setattr(parent, name, Halved(child))
        return model

    def merge(self, model: Any) -> Any:
        for parent, name, child in list(self.find(model, Halved)):
            plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
            plain.weight, plain.bias = child.weight, child.bias
            setattr(parent, name, plain)
        return model


class NormsOnly(Lora):
    """Adds nothing and exchanges nothing: trains norms and biases alone."""

    def apply(self, model: Any, device: torch.device) -> Any:
        roles = model.roles()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(roles[name] in ("norm", "bias"))
        return model

    def merge(self, model: Any) -> Any:
        return model


class WrapsRight(Wraps):
    """Returns the model in a wrapper, with roles under the wrapper's names."""

    def apply(self, model: Any, device: torch.device) -> Any:
        wrapped = super().apply(model, device)
        wrapped.roles = lambda: {f"base_model.{name}": role for name, role in model.roles().items()}
        return wrapped


class OneLayer(Lora):
    """Adapts a single layer, with a dropout on the way in that evaluation leaves out."""

    def find(self, model: Any, kind: type) -> Any:
        found = list(super().find(model, kind))[-1:]
        for _, _, child in found:
            child.register_forward_pre_hook(_drop)
        return iter(found)


def _drop(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.dropout(arguments[0], 0.1, module.training), *arguments[1:])


CORRECT: list[Any] = [
    _fault("*", Lora),
    _fault("*", Lora, {"rank": 64, "alpha": 1.0}),
    _fault("*", Quantiser),
    _fault("*", NormsOnly),
    _fault("*", WrapsRight),
    _fault("*", OneLayer),
]
