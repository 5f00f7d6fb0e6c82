"""What every optimizer must keep, on a small reference model.

Shapes: `B` rows, `T` tokens.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.reference import ReferenceModel, loss_sum, random_batch, reference_model
from llmx.train.tree import pack, unpack

KNOWN = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
"""Algorithms that torch has too: a component of such a name is compared with it."""

NEEDED = ("lr", "betas", "eps", "weight_decay", "momentum", "alpha")
"""Numbers that a group must show for that comparison; others (amsgrad, dampening, …) are off where a group has none."""

AGREE = 1e-3
"""Largest distance from torch's weights after 5 steps on equal gradients, as a part of the way they went: fp32 rounds a
weight of 1 to 6e-8, which is as much of a step of 1e-4."""


def _built(subject: Subject, model: ReferenceModel) -> torch.optim.Optimizer:
    optimizer = subject.build(model)
    assert isinstance(optimizer, torch.optim.Optimizer), (
        f"the target returns a {type(optimizer).__name__}, want a torch.optim.Optimizer"
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # as a run does
    return optimizer


def _train(
    model: ReferenceModel, optimizer: torch.optim.Optimizer, steps: range, factor: Callable[[int], float] | None = None
) -> list[float]:
    """Take steps as a run does, each on a batch of its own number; return the losses before them."""
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1.0 if factor is None else factor(step))
        losses.append(_backward(model, optimizer, step))
        optimizer.step()
    return losses


def _backward(model: ReferenceModel, optimizer: torch.optim.Optimizer, number: int) -> float:
    optimizer.zero_grad(set_to_none=True)
    batch = random_batch(seed=number)
    loss = loss_sum(model, batch) / batch.count
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _weights(model: ReferenceModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _moved(before: dict[str, Tensor], model: ReferenceModel) -> list[str]:
    """Return the names of the parameters that are not what they were, NaN among them."""
    return [name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter.detach())]


def every_parameter_once(subject: Subject) -> None:
    """Every trainable parameter is in one group, frozen ones are in none, and every group has a rate above 0."""
    for tied in (False, True):
        model = reference_model(tied=tied)
        model.model.layers[0].requires_grad_(False)
        optimizer = _built(subject, model)
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        for name, parameter in model.named_parameters():
            times, wanted = held.count(id(parameter)), int(parameter.requires_grad)
            assert times == wanted, f"{name} (requires_grad={parameter.requires_grad}) is in {times} groups"
        assert len(held) == sum(p.requires_grad for p in model.parameters()), "a group holds what is no parameter"
        for index, group in enumerate(optimizer.param_groups):
            assert isinstance(group["lr"], int | float), f"group {index}: lr is a {type(group['lr']).__name__}"
            assert group["lr"] > 0, (
                f"group {index}: lr = {group['lr']}: at the start it is the peak the scheduler scales"
            )


def frozen_untouched(subject: Subject) -> None:
    """Frozen parameters keep every bit, and the others move."""
    model = reference_model()
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[1].mlp.requires_grad_(False)
    before, optimizer = _weights(model), _built(subject, model)
    _train(model, optimizer, range(3))
    moved = set(_moved(before, model))
    for name, parameter in model.named_parameters():
        assert name in moved or not parameter.requires_grad, f"{name} is trained and did not move in 3 steps"
        assert name not in moved or parameter.requires_grad, f"{name} is frozen and moved"


def learns(subject: Subject) -> None:
    """Twenty steps on one batch lower its loss."""
    model = reference_model()
    optimizer = _built(subject, model)
    losses = [_backward(model, optimizer, 0)]
    for _ in range(20):
        optimizer.step()
        losses.append(_backward(model, optimizer, 0))
    assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f} nats"


def rate_from_the_groups(subject: Subject) -> None:
    """A group whose rate the scheduler sets to 0 stands still, alone."""
    groups = len(_built(subject, reference_model()).param_groups)
    for index in range(groups):
        model = reference_model()
        optimizer = _built(subject, model)
        before = _weights(model)
        _backward(model, optimizer, 0)
        optimizer.param_groups[index]["lr"] = 0.0
        optimizer.step()
        still = {id(parameter) for parameter in optimizer.param_groups[index]["params"]}
        moved = set(_moved(before, model))
        for name, parameter in model.named_parameters():
            stands = id(parameter) in still
            assert not (stands and name in moved), f"{name} moved, though its group {index} has lr = 0"
            assert stands or name in moved, f"{name} stood still when group {index}, not its own, had lr = 0"


def rate_scales(subject: Subject) -> None:
    """Half the rate moves the weights about half as far."""
    whole, half = _length_of_a_step(subject, 1.0), _length_of_a_step(subject, 0.5)
    assert whole > 0, "a step at the full rate moves nothing"
    ratio = half / whole
    assert 0.4 <= ratio <= 0.75, f"half of every group's lr moves the weights {ratio:.2f} times as far"


def _length_of_a_step(subject: Subject, factor: float) -> float:
    model = reference_model()
    before = _weights(model)
    _train(model, _built(subject, model), range(1), lambda _: factor)
    after = _weights(model)
    return math.sqrt(sum(float((after[name] - before[name]).double().square().sum()) for name in before))


def no_decay_of_norms(subject: Subject) -> None:
    """A step with zero gradients leaves norms and biases as they are: they do not decay."""
    model = reference_model()
    optimizer, before, roles = _built(subject, model), _weights(model), model.roles()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name in _moved(before, model):
        assert torch.isfinite(model.get_parameter(name)).all(), f"{name} is not finite after a step with zero gradients"
        assert roles[name] not in ("norm", "bias"), f"{name}, a {roles[name]}, decays: `model.roles()` tells them apart"


def missing_gradients(subject: Subject) -> None:
    """A parameter without a gradient is skipped, at the first step and at a later one."""
    model = reference_model()
    optimizer = _built(subject, model)
    absent = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "model.norm.weight"]
    for step in (0, 1, 2):
        _backward(model, optimizer, step)
        skipped = absent if step != 1 else []
        for name in skipped:
            model.get_parameter(name).grad = None
        before = _weights(model)
        optimizer.step()
        moved = [name for name in _moved(before, model) if name in skipped]
        assert not moved, f"step {step}: {moved[0]} has no gradient (None) and moved"


def deterministic(subject: Subject) -> None:
    """The same start and batches give the same weights, bit for bit."""
    results = []
    for _ in range(2):
        model = reference_model()
        torch.manual_seed(0)
        optimizer = _built(subject, model)
        _train(model, optimizer, range(4))
        results.append(_weights(model))
    different = _moved(results[0], model)
    assert not different, f"{different[0]} differs between two equal runs of 4 steps"


def resume(subject: Subject) -> None:
    """Saved in the middle and loaded into a new optimizer, it goes on bit for bit as if it had never stopped."""
    whole, first, second = reference_model(), reference_model(), reference_model(seed=1)
    torch.manual_seed(0)
    _train(whole, _built(subject, whole), range(6), _falling)
    torch.manual_seed(0)
    optimizer = _built(subject, first)
    _train(first, optimizer, range(3), _falling)
    state = _through_disk(subject, optimizer.state_dict())
    random_state = torch.get_rng_state()
    later = _built(subject, second)
    second.load_state_dict(first.state_dict())
    later.load_state_dict(state)
    torch.set_rng_state(random_state)
    _train(second, later, range(3, 6), _falling)
    different = _moved(_weights(whole), second)
    assert not different, (
        f"{different[0]} differs from the run that never stopped: is all that a step needs in state_dict()?"
    )


def _falling(step: int) -> float:
    return 1 - step / 10


def _through_disk(subject: Subject, state: Any) -> Any:
    """Write and read a state as a checkpoint does: safetensors and JSON."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Tensor] = {}
    packed = json.dumps(pack({"optimizer": state}, tensors, "state"))
    save_file(tensors, subject.scratch / "state.safetensors")
    return unpack(json.loads(packed), load_file(subject.scratch / "state.safetensors"))["optimizer"]


def meta_step(subject: Subject) -> None:
    """It is built on the meta device and takes a step there, which a dry run does to measure its state."""
    model = reference_model()
    real = _built(subject, model)
    _backward(model, real, 0)
    real.step()
    shapes = reference_model().to("meta")
    with torch.device("meta"):  # as a dry run does: what it makes of its own is there too, unless it says where
        optimizer = _built(subject, shapes)
    for group in optimizer.param_groups:
        if "fused" in group:
            group.update(fused=False, foreach=False)  # their kernels have no meta form; a dry run does the same
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    wanted, found = _state_numbers(real), _state_numbers(optimizer)
    assert found == wanted, (
        f"the state holds {found} numbers after a step on the meta device, {wanted} after a real one"
    )


def _state_numbers(optimizer: torch.optim.Optimizer) -> int:
    """Return the numbers that the state holds in tensors, without counters."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() for value in values if isinstance(value, Tensor) and value.ndim > 0)


def known_algorithm(subject: Subject) -> None:
    """An optimizer called as one of torch's takes its steps, with the numbers that its groups show."""
    name = subject.part.offer.component.name
    if name not in KNOWN:
        raise NotApplicable(f"torch has no optimizer {name!r} to compare with (it has {', '.join(KNOWN)})")
    model, other = reference_model(), reference_model()
    optimizer = _built(subject, model)
    accepted = inspect.signature(KNOWN[name]).parameters
    groups = []
    for group in optimizer.param_groups:
        missing = [key for key in NEEDED if key in accepted and key not in group]
        if missing:
            raise NotApplicable(f"its groups do not show {missing[0]}, which a comparison needs")
        same = _counterparts(group["params"], model, other)
        values = {key: group[key] for key in accepted if key in group and key not in ("params", "foreach", "fused")}
        groups.append({"params": same, **values})
    torchs = KNOWN[name](groups, foreach=False)
    before = _weights(model)
    for step in range(5):
        _backward(model, optimizer, step)
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None
            other.get_parameter(parameter_name).grad = parameter.grad.clone()
        optimizer.step()
        torchs.step()
    for parameter_name, wanted in _weights(other).items():
        moved = float((wanted - before[parameter_name]).norm())
        off = float((model.get_parameter(parameter_name).detach() - wanted).norm()) / max(moved, 1e-6)
        assert off <= AGREE, f"{parameter_name}: after 5 steps {off:.1e} of the way off torch's {name}"


def _counterparts(parameters: list[Tensor], model: ReferenceModel, other: ReferenceModel) -> list[Tensor]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [other.get_parameter(names[id(parameter)]) for parameter in parameters]


CHECKS = (
    every_parameter_once,
    frozen_untouched,
    learns,
    rate_from_the_groups,
    rate_scales,
    no_decay_of_norms,
    missing_gradients,
    deterministic,
    resume,
    meta_step,
    known_algorithm,
)
