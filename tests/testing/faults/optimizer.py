"""Mistakes of optimizer plugins, each of which a check of the kit must find."""

from __future__ import annotations

import os
from typing import Any

import torch
from attrs import frozen
from torch.optim import Optimizer

from llmx import Component


@frozen
class Options:
    lr: float = 3e-3
    """Peak rate."""
    weight_decay: float = 0.1
    """Part of every matrix that an update takes off, times the rate."""


def groups_of(options: Any, model: Any) -> list[dict[str, Any]]:
    """Matrices decay; embeddings, norms and biases do not."""
    roles, named = model.roles(), [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decaying = [p for n, p in named if roles[n] in ("hidden", "head")]
    others = [p for n, p in named if roles[n] not in ("hidden", "head")]
    groups = [{"params": decaying, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Right(Optimizer):
    """AdamW, right."""

    def __init__(self, options: Options, model: Any) -> None:
        defaults = {"lr": options.lr, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(self.groups(options, model), defaults)

    def groups(self, options: Any, model: Any) -> list[dict[str, Any]]:
        return groups_of(options, model)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["step"] += 1
        b1, b2 = group["betas"]
        state["m"].lerp_(grad, 1 - b1)
        state["v"].lerp_(grad * grad, 1 - b2)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        root = (state["v"] / (1 - b2 ** state["step"])).sqrt() + group["eps"]
        p.add_(state["m"] / (1 - b1 ** state["step"]) / root, alpha=-group["lr"])


class ForgetsBiases(Right):
    """Sorts parameters by their number of axes and the word norm, and leaves biases out."""

    def groups(self, options: Any, model: Any) -> list[dict[str, Any]]:
        named = list(model.named_parameters())
        matrices = [p for _, p in named if p.ndim == 2 and p.requires_grad]
        norms = [p for n, p in named if "norm" in n and p.requires_grad]
        return [{"params": matrices, "weight_decay": 0.1}, {"params": norms}]


class TakesFrozen(Right):
    """Gives the optimizer parameters that do not require gradients."""

    def groups(self, options: Any, model: Any) -> list[dict[str, Any]]:
        roles, named = model.roles(), list(model.named_parameters())
        matrices = [p for n, p in named if roles[n] == "hidden"]
        return [{"params": matrices}, {"params": [p for n, p in named if roles[n] != "hidden"]}]


class RateBySchedule(Right):
    """Begins with a rate of 0, which the scheduler then scales: it stays 0."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        for group in self.param_groups:
            group["lr"] = 0.0


class ShrinksTheModel(Right):
    """Decays every matrix of the model, trained or not, in a loop of its own."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        self.matrices = [p for p in model.parameters() if p.ndim == 2]

    @torch.no_grad()
    def step(self) -> None:
        super().step()
        for p in self.matrices:
            p.mul_(1 - 1e-4 * self.param_groups[0]["lr"])


class StepsOnFirstGroup(Right):
    """Returns after the first group: the indentation of a `return` slipped."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)
            return


class Ascends(Right):
    """Adds the update where it should take it off."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, -grad, state, group)


class KeepsItsRate(Right):
    """Remembers the rate it was built with and never looks at its groups again."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        self.rate = options.lr

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, {**group, "lr": self.rate})


class FirstGroupsRate(Right):
    """Takes the first group's rate for all."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, {**group, "lr": self.param_groups[0]["lr"]})


class SquaresTheRate(Right):
    """Multiplies by the rate twice: in the update and again when it is applied."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, {**group, "lr": group["lr"] ** 2 * 300})


class DecaysAll(Right):
    """Decays every parameter, norms and biases too."""

    def groups(self, options: Any, model: Any) -> list[dict[str, Any]]:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": options.weight_decay}]


class DividesByZero(Right):
    """Normalises by the gradient's own size: 0 / 0 where nothing came back."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad / grad.abs().max(), state, group)


class NeedsEveryGradient(Right):
    """Reads `p.grad` without asking whether there is one."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.update(p, p.grad, self.state[p], group)


class CoastsOnMomentum(Right):
    """Moves a parameter without a gradient on by its momentum."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None or self.state[p]:
                    self.update(p, torch.zeros_like(p) if p.grad is None else p.grad, self.state[p], group)


class Unseeded(Right):
    """Rounds at random with a generator that the system seeds."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        self.generator = torch.Generator("cpu").manual_seed(int.from_bytes(os.urandom(7), "big"))

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, group)
        if p.device.type != "meta":
            p.mul_(1 + 1e-6 * torch.randn(p.shape, generator=self.generator))


class SharedCounter(Right):
    """Counts its steps on the class, so that the second optimizer of a process goes on from the first."""

    steps = 0

    @torch.no_grad()
    def step(self) -> None:
        type(self).steps += 1
        super().step()

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, {**group, "lr": group["lr"] / (1 + 0.01 * self.steps)})


class CountsOutsideTheState(Right):
    """Keeps the step of its bias correction in an attribute, which `state_dict` does not save."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        self.count = 0

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        super().step()

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if state:
            state["step"] = self.count - 1
        super().update(p, grad, state, group)


class SavesAView(Right):
    """Keeps both averages in one buffer: safetensors does not save tensors that share memory."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            both = torch.zeros(2, *p.shape, device=p.device, dtype=p.dtype)
            state.update(step=0, both=both, m=both[0], v=both[1])
        super().update(p, grad, state, group)


class StateOfAnotherType(Right):
    """Keeps an object in its groups that is neither a tensor nor a number: it cannot be saved without pickle."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        for group in self.param_groups:
            group["roles"] = frozenset(model.roles().values())


class LooksAtNumbers(Right):
    """Asks for a number of a tensor, which the meta device has not."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        norm = grad.norm().item()
        super().update(p, grad / max(1.0, norm), state, group)


class StateOnTheCpu(Right):
    """Makes its state on the CPU whatever the parameter's device."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, m=torch.zeros(p.shape), v=torch.zeros(p.shape))
        super().update(p, grad, state, group)


class ReadsATable(Right):
    """Makes a table where tensors are made by default, which is the meta device in a dry run, and reads it."""

    def __init__(self, options: Options, model: Any) -> None:
        super().__init__(options, model)
        self.rates = torch.arange(1.0, 5.0).tolist()


class NoBiasCorrection(Right):
    """AdamW whose averages are not corrected for their start at 0."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, group)
        state["step"] = 1000


class SwapsBetas(Right):
    """Takes each average's weight from the other's beta."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad, state, {**group, "betas": group["betas"][::-1]})


def _component(cls: type, name: str = "") -> Component:
    return Component(name=name or cls.__name__.lower(), target=f"llmx_faults_optimizer:{cls.__name__}", options=Options)


FAULTS = [
    ("every-parameter-once", _component(ForgetsBiases)),
    ("every-parameter-once", _component(TakesFrozen)),
    ("every-parameter-once", _component(RateBySchedule)),
    ("frozen-untouched", _component(ShrinksTheModel)),
    ("frozen-untouched", _component(StepsOnFirstGroup)),
    ("learns", _component(Ascends)),
    ("rate-from-the-groups", _component(KeepsItsRate)),
    ("rate-from-the-groups", _component(FirstGroupsRate)),
    ("rate-scales", _component(SquaresTheRate)),
    ("no-decay-of-norms", _component(DecaysAll)),
    ("no-decay-of-norms", _component(DividesByZero)),
    ("missing-gradients", _component(NeedsEveryGradient)),
    ("missing-gradients", _component(CoastsOnMomentum)),
    ("deterministic", _component(Unseeded)),
    ("deterministic", _component(SharedCounter)),
    ("resume", _component(CountsOutsideTheState)),
    ("resume", _component(SavesAView)),
    ("resume", _component(StateOfAnotherType)),
    ("meta-step", _component(LooksAtNumbers)),
    ("meta-step", _component(StateOnTheCpu)),
    ("meta-step", _component(ReadsATable)),
    ("known-algorithm", _component(NoBiasCorrection, "adamw")),
    ("known-algorithm", _component(SwapsBetas, "adamw")),
]

CRASHES = {
    "needseverygradient": "TypeError",
    "savesaview": "RuntimeError",
    "stateofanothertype": "TypeError",
    "looksatnumbers": "RuntimeError",
    "stateonthecpu": "RuntimeError",
    "readsatable": "NotImplementedError",
}
"""Faults that show as an exception of their own, and which."""


# --- unusual, and right ---------------------------------------------------------------------------------------------


class Lion(Right):
    """Moves by signs alone (Chen et al. 2023), at a small rate."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["m"] = torch.zeros_like(p)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(state["m"].lerp(grad, 0.1).sign(), alpha=-group["lr"])
        state["m"].lerp_(grad, 0.01)


class Factored(Right):
    """Keeps the squares of a matrix as its rows' and columns' means (Shazeer & Stern 2018)."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        squares, axes = grad * grad + 1e-30, range(p.ndim)
        if not state:
            state.update({f"mean{axis}": squares.mean(axis, keepdim=True) for axis in axes})
        for axis in axes:
            state[f"mean{axis}"].lerp_(squares.mean(axis, keepdim=True), 0.1)
        if p.ndim == 2:
            squares = state["mean0"] / state["mean0"].mean() * state["mean1"]
        update = grad / squares.sqrt()
        p.add_(update / update.square().mean().sqrt().clamp(min=1.0), alpha=-group["lr"])


class Noisy(Right):
    """Adds noise from torch's global generator, whose state a checkpoint holds; nothing where there is no gradient."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, grad * (1 + 0.1 * torch.randn_like(grad)), state, group)


class Separate(Right):
    """Has a group for every parameter, and takes a closure as torch's optimizers do."""

    def groups(self, options: Any, model: Any) -> list[dict[str, Any]]:
        return [{"params": [p]} for p in model.parameters() if p.requires_grad]

    def step(self, closure: Any = None) -> None:
        super().step()


class PlainSgd(Right):
    """Called sgd, and shows only its rate: there is nothing to compare torch's with."""

    def update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        p.add_(grad, alpha=-group["lr"])

    def __init__(self, options: Options, model: Any) -> None:
        Optimizer.__init__(self, self.groups(options, model), {"lr": 0.1})


CORRECT: list[Any] = [
    ("*", _component(Right, "adamw")),
    ("*", _component(Lion), {"lr": 1e-4}),
    ("*", _component(Factored)),
    ("*", _component(Noisy)),
    ("*", _component(Separate)),
    ("*", _component(PlainSgd, "sgd")),
]
