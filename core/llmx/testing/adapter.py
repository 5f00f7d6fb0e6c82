"""What every adapter must keep, on a small reference model.

Shapes: `B` rows, `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from llmx import pretrained
from llmx.protocols import Role
from llmx.testing import TOLERANCE, check_cached_decoding
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.reference import (
    VOCAB,
    ReferenceModel,
    ReferenceOptions,
    difference,
    loss_sum,
    random_batch,
    random_ids,
    reference_model,
)
from llmx.train.adapt import merged

MERGED, MERGED_COARSE = 1e-4, 2e-2
"""Largest difference of merged logits: of an adapter that begins as the identity, folding W + BA rounds once; one that
changes the weights (a quantiser) may compute in bf16."""


CPU = torch.device("cpu")


def _logits(model: Any) -> Tensor:
    """Return logits in evaluation mode, of the same ids each time."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits_BTV: Tensor = model(random_ids(2, 24, VOCAB))
    model.train(training)
    return logits_BTV


def _trained(model: Any, steps: int = 6) -> Any:
    """Train what the adapter left trainable, if anything, until the logits are others, and return the model."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if parameters:
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for step in range(steps):
            optimizer.zero_grad()
            batch = random_batch(seed=step % 2)
            (loss_sum(model, batch) / batch.count).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def _meta_model() -> ReferenceModel:
    with torch.device("meta"):
        return ReferenceModel(ReferenceOptions(), vocab_size=VOCAB)


def _shapes(model: Any) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def identity(subject: Subject) -> None:
    """An adapter that says it begins as the identity gives the base model's logits until it is trained."""
    adapter = subject.build()
    assert isinstance(adapter.identity, bool), f"identity is {adapter.identity!r}, want True or False"
    if not adapter.identity:
        raise NotApplicable("identity is False: the adapter changes the model from the start")
    wanted_BTV = _logits(reference_model())
    off = difference(_logits(adapter.apply(reference_model(), CPU)), wanted_BTV)
    assert off <= TOLERANCE, f"identity is True, and the adapted model's logits are {off:.1e} off the base model's"


def contract(subject: Subject) -> None:
    """The adapted model keeps the contract of a model, and each of its parameters has a role."""
    base, model = reference_model(), subject.build().apply(reference_model(), CPU)
    for name in ("vocab_size", "context_length", "tied_names"):
        wanted, found = getattr(base, name), getattr(model, name)
        assert found == wanted, f"{name} of the adapted model is {found!r}, of the base {wanted!r}"
    assert len(model.blocks()) == len(base.blocks()), (
        f"blocks() has {len(model.blocks())} of {len(base.blocks())} blocks"
    )
    inside = {id(module) for module in model.modules()}
    assert all(id(block) in inside for block in model.blocks()), "blocks() holds a module that is not in the model"
    roles, names = model.roles(), {name for name, _ in model.named_parameters()}
    for name in sorted(names | roles.keys()):
        assert name in roles, f"{name} has no role: roles() must name what the adapter added"
        assert name in names, f"{name} has a role and is no parameter of the adapted model"
        assert roles[name] in get_args(Role), f"{name} has the role {roles[name]!r}, want one of {get_args(Role)}"


def cached_decoding(subject: Subject) -> None:
    """Decoding with a cache gives the logits of the full forward, when the adapter is trained too."""
    check_cached_decoding(_trained(subject.build().apply(reference_model(), CPU)))


def trains(subject: Subject) -> None:
    """Every parameter it leaves trainable gets a gradient, and the loss falls."""
    adapter = subject.build()
    model = adapter.apply(reference_model(), CPU)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        assert not adapter.identity, "nothing is trainable: an adapter that changes nothing and trains nothing is none"
        raise NotApplicable("it trains nothing by itself")
    model.train()
    batch = random_batch()
    before = float(loss_sum(model, batch).detach())
    _trained(model)
    for name, parameter in parameters.items():
        assert parameter.grad is not None, f"{name} requires gradients and gets none"
        assert bool(parameter.grad.any()), f"{name} requires gradients, and its gradient is 0 after some steps too"
    _trained(model, 14)
    after = float(loss_sum(model, batch).detach())
    assert after < before, f"20 steps of AdamW took the loss from {before:.2f} to {after:.2f} nats in sum"


def applies_to_each(subject: Subject) -> None:
    """One adapter may be applied to two models: neither depends on the other, and names and shapes are the same."""
    adapter = subject.build()
    first, second = adapter.apply(reference_model(), CPU), adapter.apply(reference_model(), CPU)
    other = subject.build().apply(reference_model(), CPU)
    for model, what in ((second, "the second model"), (other, "another process")):
        found, wanted = _shapes(model), _shapes(first)
        changed = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        assert not changed, (
            f"{changed[0]}: not the same name and shape in {what}: its state dict would be no checkpoint"
        )
    wanted_BTV = _logits(second)
    _trained(first)
    off = difference(_logits(second), wanted_BTV)
    assert off == 0, f"training one model changed the logits of another by {off:.1e}: they share something"


def merge(subject: Subject) -> None:
    """After training, merging gives a model with the base's names and shapes and the adapted model's logits."""
    adapter = subject.build()
    model = _trained(adapter.apply(reference_model(), CPU))
    adapted_BTV, weights = _logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    plain: Any = merged(model, [(subject.part, adapter)])
    base, found = _shapes(reference_model()), _shapes(plain)
    changed = sorted(name for name in found.keys() | base.keys() if found.get(name) != base.get(name))
    assert not changed, f"{changed[0]}: {found.get(changed[0])} when merged, {base.get(changed[0])} in the base model"
    allowed = MERGED if adapter.identity else MERGED_COARSE
    off = difference(_logits(plain), adapted_BTV)
    assert off <= allowed, f"merged logits are {off:.1e} off the adapted model's (allowed {allowed:.0e})"
    fresh = reference_model(seed=1)
    fresh.load_state_dict(plain.state_dict())
    off = difference(_logits(fresh), adapted_BTV)
    assert off <= allowed, f"the merged weights in a model of the base's class give logits that are {off:.1e} off"
    _unchanged(model, weights, adapted_BTV)


def _unchanged(model: Any, weights: dict[str, Tensor], logits_BTV: Tensor) -> None:
    """Check that a model is what it was before a copy of it was merged."""
    assert model.state_dict().keys() == weights.keys(), "merging a copy changed the names of the model that is trained"
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), f"merging a copy changed {name} of the model that is being trained"
    off = difference(_logits(model), logits_BTV)
    assert off == 0, f"merging a copy changed the logits of the model that is being trained by {off:.1e}"


def merge_untrained(subject: Subject) -> None:
    """Merged before any training, an adapter that begins as the identity gives back the base's weights."""
    adapter = subject.build()
    if not adapter.identity:
        raise NotApplicable("identity is False: the adapter changes the model from the start")
    plain: Any = merged(adapter.apply(reference_model(), CPU), [(subject.part, adapter)])
    found = plain.state_dict()
    for name, wanted in reference_model().state_dict().items():
        off = difference(found[name], wanted)
        assert off <= TOLERANCE, f"{name} differs by {off:.1e} from the base's when nothing was trained"


def resume(subject: Subject) -> None:
    """The state dict of a trained adapted model, loaded into a new one, gives equal logits."""
    from safetensors.torch import load_file, save_file

    model = _trained(subject.build().apply(reference_model(), CPU))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, subject.scratch / "model.safetensors")
    other = subject.build().apply(reference_model(seed=1), CPU)
    other.load_state_dict(load_file(subject.scratch / "model.safetensors"), strict=True)
    off = difference(_logits(other), _logits(model))
    assert off <= TOLERANCE, (
        f"with one state dict the logits differ by {off:.1e}: something of the adapter is not in it"
    )


def meta_device(subject: Subject) -> None:
    """It is applied to a model on the meta device, with the same names and shapes, and takes its weights there."""
    real = _trained(subject.build().apply(reference_model(), CPU))
    with torch.device("meta"):
        model = subject.build().apply(_meta_model(), torch.device("meta"))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.device.type == "meta", f"{name} is on {value.device} when the model is on the meta device"
    found, wanted = _shapes(model), _shapes(real)
    changed = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not changed, f"{changed[0]}: {found.get(changed[0])} on the meta device, else {wanted.get(changed[0])}"
    trained = [{name for name, p in each.named_parameters() if p.requires_grad} for each in (model, real)]
    assert trained[0] == trained[1], f"{min(trained[0] ^ trained[1])} is trainable on one device and not on the other"
    pretrained.load_weights(model, dict(real.state_dict()), Path("the state dict of an adapted model"))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.device.type != "meta", f"{name} is still on the meta device when all weights are loaded"
    off = difference(_logits(model), _logits(real))
    assert off <= TOLERANCE, f"applied on the meta device and given the weights, its logits are {off:.1e} off"


def seeded(subject: Subject) -> None:
    """What it draws comes from torch's global generator: one seed gives one adapted model."""
    found = []
    for _ in range(2):
        model = reference_model()
        torch.manual_seed(7)
        found.append(subject.build().apply(model, CPU).state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), (
            f"{name} differs between two models adapted after torch.manual_seed(7)"
        )


CHECKS = (
    identity,
    contract,
    cached_decoding,
    trains,
    applies_to_each,
    merge,
    merge_untrained,
    resume,
    meta_device,
    seeded,
)
