"""Muon: the momentum of hidden matrices made orthogonal, and AdamW for every other parameter, in one optimizer.

Shapes: `N` matrices of one size, `A` the lesser of their rows and columns, `B` the greater.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from muon import zeropower_via_newtonschulz5
from torch import Tensor
from torch.optim.adamw import adamw

from llmx_optimizers.groups import decay_groups, one_kernel, trainable
from llmx_optimizers.rates import rate, with_rate

if TYPE_CHECKING:
    from torch import nn

    from llmx_optimizers import MuonOptions

AT_ONCE = {"cpu": 2**19}
"""Most numbers orthogonalised in one call, by the type of device: what a core's cache holds. More at once was up to
half slower there than matrix by matrix; up to this it was as fast, and three times as fast for matrices of 64 x 64."""
AT_ONCE_ELSEWHERE = 2**26
"""On accelerators, where more at once is faster: bounded by memory, 128 MiB for each of some five temporaries."""


def muon(options: MuonOptions, model: nn.Module) -> Muon:
    """Build the optimizer: a group "muon", and what is left in "adamw-decay", "adamw-embedding", "adamw-no_decay"."""
    roles, parameters = model.roles(), trainable(model)
    muon_lr, adamw_lr = options.rates()
    hidden = {name: each for name, each in parameters.items() if roles[name] == "hidden" and each.ndim == 2}
    rest = decay_groups(model, options.adamw_weight_decay, options.embedding_lr, leave_out=hidden)
    groups = [
        {**group, "name": f"adamw-{group['name']}", "use_muon": False, "betas": options.betas, "eps": options.eps}
        | {"fused": one_kernel([group])}
        for group in with_rate(rest, adamw_lr, model)
    ]
    if hidden:
        same = ("weight_decay", "momentum", "nesterov", "ns_steps", "scale")
        numbers = {name: getattr(options, name) for name in same} | rate(muon_lr, model)
        groups.insert(0, {"name": "muon", "use_muon": True, "params": list(hidden.values()), **numbers})
    return Muon(groups)


class Muon(torch.optim.Optimizer):
    """Takes the steps of `muon.SingleDeviceMuonWithAuxAdam`, matrices of equal size together.

    Groups with `use_muon` hold matrices alone.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step; parameters without a gradient are skipped."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if group["use_muon"]:
                for together in _of_one_size(parameters):
                    self._orthogonal_step(group, together)
            elif parameters:
                self._adamw_step(group, parameters)
        return loss

    def _orthogonal_step(self, group: dict[str, Any], matrices: list[Tensor]) -> None:
        """Step by the orthogonalised momentum (Jordan et al. 2024)."""
        momenta_NAB = torch.stack([_wide(self._momentum(group, each)).bfloat16() for each in matrices])
        updates_NAB = zeropower_via_newtonschulz5(momenta_NAB, steps=group["ns_steps"])
        for matrix, update_AB in zip(matrices, updates_NAB, strict=True):
            update_AB *= _size(group["scale"], *matrix.shape)
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update_AB.mT if _tall(matrix) else update_AB, alpha=-group["lr"])

    def _momentum(self, group: dict[str, Any], matrix: Tensor) -> Tensor:
        """Take the gradient into the running average and return what the step goes by; the gradient stays as it is."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
        return torch.lerp(matrix.grad, average, group["momentum"]) if group["nesterov"] else average

    def _adamw_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for each in parameters:
            if not self.state[each]:
                # the one-kernel update reads the count where the weights are, the others on the host
                step = torch.zeros((), device=each.device if group["fused"] else "cpu")
                averages = {"exp_avg": torch.zeros_like(each), "exp_avg_sq": torch.zeros_like(each)}
                self.state[each].update(step=step, **averages)
        states = [self.state[each] for each in parameters]
        adamw(
            parameters,
            [each.grad for each in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False if group["fused"] else None,
            fused=group["fused"] or False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _wide(matrix: Tensor) -> Tensor:
    """Return a matrix with no more rows than columns: its transpose has the transposed update, and is faster."""
    return matrix.mT if _tall(matrix) else matrix


def _of_one_size(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Return lists of matrices that are equal in size when they lie wide, and few enough for one call."""
    alike: dict[Any, list[Tensor]] = {}
    for each in matrices:
        alike.setdefault((_wide(each).shape, each.dtype, each.device), []).append(each)
    for (shape, _, device), those in alike.items():
        at_once = max(1, AT_ONCE.get(device.type, AT_ONCE_ELSEWHERE) // shape.numel())
        yield from (those[first : first + at_once] for first in range(0, len(those), at_once))


def _size(scale: str, rows: int, columns: int) -> float:
    """Return what an orthogonal update is multiplied by; without it, its singular values are about 1."""
    if scale == "moonlight":  # the mean square of its entries is then that of AdamW's, about 0.2 (Liu et al. 2025)
        return 0.2 * max(rows, columns) ** 0.5
    return max(1.0, rows / columns) ** 0.5
