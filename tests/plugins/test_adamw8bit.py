"""adamw8bit: the steps of bitsandbytes, near those of AdamW, in a quarter of the memory."""

import sys

import bitsandbytes
import pytest
import torch

import llmx_optimizers
from llmx import Registry
from llmx.errors import PluginError, RecipeError
from llmx.options import structure
from llmx.testing.frame import parts_of
from llmx.testing.reference import loss_sum, random_batch, reference_model

COMPONENT = next(each for each in llmx_optimizers.llmx_optimizers() if each.name == "adamw8bit")


def build(model, **values):
    """Build an optimizer as a run does: structured options, loaded target."""
    options, faults = structure(COMPONENT.options, values, "optimizer")
    assert not faults
    return COMPONENT.load()(options, model)


def train(model, optimizer, steps):
    """Take steps on batches that differ; return how far every weight went, as one vector."""
    before = [each.detach().clone() for each in model.parameters()]
    for step in range(steps):
        model.zero_grad()
        batch = random_batch(seed=step)
        (loss_sum(model, batch) / batch.count).backward()
        optimizer.step()
    return torch.cat([(now - then).detach().flatten() for now, then in zip(model.parameters(), before, strict=True)])


def test_its_steps_are_those_of_bitsandbytes_and_near_adamws():
    """Bit for bit those of the library with the same groups; within a few percent of AdamW's of 32 bits."""
    values = {"lr": 0.01, "weight_decay": 0.2, "betas": (0.9, 0.95), "eps": 1e-8}
    model, same, exact = (reference_model() for _ in range(3))
    found = train(model, build(model, **{**values, "betas": [0.9, 0.95]}), 8)
    for other, cls in ((same, bitsandbytes.optim.AdamW8bit), (exact, torch.optim.AdamW)):
        roles = other.roles()
        groups = [
            {"params": [each], "weight_decay": 0.2 if roles[name] in ("hidden", "head") else 0.0}
            for name, each in other.named_parameters()
        ]
        wanted = train(other, cls(groups, **{**values, "weight_decay": 0.0}), 8)
        if other is same:
            assert torch.equal(found, wanted)
        else:
            assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.2


def test_matrices_take_two_bytes_a_number():
    """8-bit averages with a scale for each block of 256; small parameters keep 32 bits."""
    model = reference_model()
    optimizer = build(model, min_8bit_size=1024)
    train(model, optimizer, 1)
    for each in model.parameters():
        state = {key: value for key, value in optimizer.state[each].items() if isinstance(value, torch.Tensor)}
        own = {key: value for key, value in state.items() if not key.startswith("qmap")}  # shared by all
        size = sum(value.numel() * value.element_size() for value in own.values()) / each.numel()
        assert size == (pytest.approx(2.03, abs=0.02) if each.numel() >= 1024 else 8.0)


def test_it_says_what_to_install(monkeypatch):
    """Without bitsandbytes, the message has the pip command."""
    (part,) = parts_of("adamw8bit", Registry())
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "llmx_optimizers.eightbit", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PluginError, match=r"needs the package 'bitsandbytes': pip install 'llmx\[quant\]>=0\.1'$"):
        part.build(reference_model())


def test_a_device_without_a_kernel_is_said_before_the_first_step(monkeypatch):
    """One line names the device and another optimizer."""

    def step(_):
        raise RuntimeError("no kernel image\nis available for execution")

    monkeypatch.setattr("llmx_optimizers.eightbit.EightBit.step", step)
    with pytest.raises(RecipeError, match=r"^optimizer\.name: .* on cpu \(no kernel image\): take adamw$"):
        build(reference_model())
