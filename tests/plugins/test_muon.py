"""Muon: its steps against the muon package's, its groups and rates, and matrices taken together."""

import copy

import muon as package
import pytest
import torch

import llmx_optimizers
import llmx_optimizers.muon as ours
from llmx.options import structure
from llmx.testing.reference import loss_sum, random_batch, reference_model

COMPONENT = next(each for each in llmx_optimizers.llmx_optimizers() if each.name == "muon")


def build(model, **values):
    """Build Muon as a run does: structured options, loaded target."""
    options, faults = structure(COMPONENT.options, values, "optimizer")
    assert not faults
    return COMPONENT.load()(options, model)


def faults_of(**values):
    return [fault.message for fault in structure(COMPONENT.options, values, "optimizer")[1]]


def backward(model, seed):
    model.zero_grad()
    batch = random_batch(seed=seed)
    (loss_sum(model, batch) / batch.count).backward()


def matrices(model):
    """Return the hidden matrices by name."""
    roles = model.roles()
    return {name: each for name, each in model.named_parameters() if roles[name] == "hidden"}


def of_the_package(model, lr, adamw_lr, embedding_lr, decay, adamw_decay, momentum=0.95):
    """Return the package's optimizer with the groups that ours should make."""
    roles, named = model.roles(), dict(model.named_parameters())

    def of(*wanted):
        return [each for name, each in named.items() if roles[name] in wanted]

    adam = {"betas": (0.8, 0.95), "eps": 1e-10, "use_muon": False}
    muon = {"momentum": momentum, "weight_decay": decay, "use_muon": True}
    return package.SingleDeviceMuonWithAuxAdam(
        [
            {"params": of("hidden"), "lr": lr, **muon},
            {"params": of("head"), "lr": adamw_lr, "weight_decay": adamw_decay, **adam},
            {"params": of("embedding"), "lr": embedding_lr, "weight_decay": 0, **adam},
            {"params": of("norm", "bias"), "lr": adamw_lr, "weight_decay": 0, **adam},
        ]
    )


@pytest.mark.parametrize("tied", [False, True])
def test_every_step_is_that_of_the_muon_package(tied):
    """Over 100 steps on equal gradients, with falling rates, every weight stays within rounding of the package's."""
    model = reference_model(tied=tied)
    other, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    optimizer = build(
        model,
        lr=0.03,
        adamw_lr=0.004,
        embedding_lr=0.01,
        betas=[0.8, 0.95],
        eps=1e-10,
        weight_decay=0.1,
        adamw_weight_decay=0.2,
    )
    reference = of_the_package(other, 0.03, 0.004, 0.01, 0.1, 0.2)
    if tied:
        reference.param_groups.pop(1)  # there is no head
    peaks = [[group["lr"] for group in each.param_groups] for each in (optimizer, reference)]
    for step in range(100):
        for each, lrs in zip((optimizer, reference), peaks, strict=True):
            for group, lr in zip(each.param_groups, lrs, strict=True):
                group["lr"] = lr * (1 - step / 200)
        backward(model, step)
        for name, parameter in model.named_parameters():
            other.get_parameter(name).grad = parameter.grad.clone()
        optimizer.step()
        reference.step()
        for name, wanted in other.named_parameters():
            moved = float((wanted.detach() - before[name]).norm())
            off = float((model.get_parameter(name) - wanted).detach().norm())
            assert off <= 1e-5 * moved, f"step {step}: {name} is off by {off / moved:.1e} of the way it went"


def expected(gradient, momentum, nesterov, ns_steps):
    """Return the package's update of a first step without its scale."""
    size = max(1, gradient.size(-2) / gradient.size(-1)) ** 0.5
    zeros = torch.zeros_like(gradient)
    return package.muon_update(gradient.clone(), zeros, momentum, ns_steps, nesterov).float() / size


@pytest.mark.parametrize("values", [{}, {"nesterov": False}, {"ns_steps": 3, "momentum": 0.5}])
def test_moonlights_updates_have_the_size_of_adamws(values):
    """The orthogonal update times 0.2 sqrt(max(rows, columns)): a mean square of about 0.2 whatever the shape."""
    model = reference_model()
    before = copy.deepcopy(model)
    optimizer = build(model, scale="moonlight", lr=1.0, weight_decay=0.0, **values)
    for each in matrices(model).values():
        each.grad = torch.randn_like(each)
    gradients = {name: each.grad.clone() for name, each in matrices(model).items()}
    optimizer.step()
    given = {"momentum": 0.95, "nesterov": True, "ns_steps": 5, **values}
    for name, each in matrices(model).items():
        update = (before.get_parameter(name) - each).detach()
        wanted = 0.2 * max(each.shape) ** 0.5 * expected(gradients[name], **given)
        torch.testing.assert_close(update, wanted, rtol=0.02, atol=0.02)  # bf16, and rounded once more in the package
        if not values:
            assert 0.16 < float(update.square().mean().sqrt()) < 0.25
        assert torch.equal(each.grad, gradients[name]), "a hook that reads gradients after the step finds others"


def test_matrices_of_one_size_go_together_tall_or_wide(monkeypatch):
    """22 calls become 3: 64 x 64, 32 x 64, and 128 x 64 with 64 x 128; one at a time gives the same weights."""
    calls = []

    def counted(batch_NAB, steps):
        calls.append(tuple(batch_NAB.shape))
        return package.zeropower_via_newtonschulz5(batch_NAB, steps)

    monkeypatch.setattr(ours, "zeropower_via_newtonschulz5", counted)
    found = []
    for at_once in (ours.AT_ONCE["cpu"], 1):
        monkeypatch.setitem(ours.AT_ONCE, "cpu", at_once)
        model = reference_model()
        optimizer = build(model)
        for step in range(3):
            backward(model, step)
            optimizer.step()
        found.append(model.state_dict())
    assert sorted(calls[:3]) == [(4, 32, 64), (4, 64, 64), (6, 64, 128)]
    assert len(calls) == 3 * 3 + 3 * 14
    for name, each in found[0].items():
        torch.testing.assert_close(each, found[1][name], rtol=1e-5, atol=1e-6)


def test_hidden_matrices_alone_are_muons():
    """By role and shape: a hidden parameter that is no matrix goes to AdamW, and decays."""
    model = reference_model()
    model.model.layers[0].extra = torch.nn.Parameter(torch.ones(2, 3, 4))
    roles = model.roles() | {"model.layers.0.extra": "hidden"}
    model.roles = lambda: roles
    optimizer = build(model, adamw_weight_decay=0.3, weight_decay=0.02)
    groups = {group["name"]: group for group in optimizer.param_groups}
    names = {id(each): name for name, each in model.named_parameters()}
    by_group = {name: {names[id(each)] for each in group["params"]} for name, group in groups.items()}
    assert by_group["adamw-decay"] == {"model.layers.0.extra", "lm_head.weight"}
    assert by_group["adamw-embedding"] == {"model.embed_tokens.weight"}
    assert {roles[name] for name in by_group["adamw-no_decay"]} == {"norm", "bias"}
    assert by_group["muon"] == matrices(model).keys() - {"model.layers.0.extra"}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "muon": 0.02,
        "adamw-decay": 0.3,
        "adamw-embedding": 0.0,
        "adamw-no_decay": 0.0,
    }


def test_without_hidden_matrices_adamw_is_all_there_is():
    """A group without parameters is not there, and the step is taken."""
    model = reference_model()
    for each in matrices(model).values():
        each.requires_grad_(False)
    optimizer = build(model)
    assert [group["name"] for group in optimizer.param_groups] == ["adamw-decay", "adamw-embedding", "adamw-no_decay"]
    backward(model, 0)
    before = model.lm_head.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({}, (0.02, 1.5e-3)),
        ({"lr": 0.1}, (0.1, 1.5e-3)),
        ({"adamw_lr": 0.1}, (0.02, 0.1)),
        ({"adamw_lr": "auto"}, (0.02, "auto")),
        ({"scale": "moonlight"}, (1.5e-3, 1.5e-3)),
        ({"scale": "moonlight", "lr": 0.1}, (0.1, 0.1)),
        ({"scale": "moonlight", "adamw_lr": 0.1}, (0.1, 0.1)),
        ({"scale": "moonlight", "lr": 0.1, "adamw_lr": "auto"}, (0.1, "auto")),
        ({"scale": "moonlight", "lr": "auto"}, ("auto", "auto")),
    ],
)
def test_rates_that_are_not_given_follow_those_that_are(values, rates):
    """Where the updates of both halves are of one size, one rate is enough; the law sets what is "auto"."""
    model = reference_model()
    optimizer = build(model, **values)
    size = sum(each.numel() for each in model.parameters())
    law = 5e-5 * (7e9 / size) ** 0.25
    wanted = [law if each == "auto" else each for each in rates]
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert [groups["muon"]["lr"], groups["adamw-decay"]["lr"]] == pytest.approx(wanted)
    assert [("lr_working" in groups[name]) for name in ("muon", "adamw-no_decay")] == [each == "auto" for each in rates]


def test_the_law_is_refused_where_updates_have_another_size():
    """One line says what to give instead."""
    assert faults_of(lr="auto") == [
        'lr = "auto" is for updates of the size of AdamW\'s: set scale = "moonlight", '
        'or give a number and adamw_lr = "auto"'
    ]


@pytest.mark.parametrize(
    "values",
    [{"lr": 0.0}, {"lr": "fast"}, {"momentum": 1.0}, {"ns_steps": 0}, {"scale": "moon"}, {"betas": [0.9, 1.0]}],
)
def test_an_option_out_of_its_range_is_a_fault(values):
    """A value outside the documented range is refused."""
    assert len(faults_of(**values)) == 1


def test_weights_of_16_bits_keep_their_type():
    """bf16 weights have bf16 momenta and move."""
    model = reference_model().to(torch.bfloat16)
    optimizer = build(model)
    before = copy.deepcopy(model.state_dict())
    backward(model, 0)
    optimizer.step()
    for name, each in matrices(model).items():
        assert optimizer.state[each]["momentum_buffer"].dtype == each.dtype == torch.bfloat16
        assert not torch.equal(each, before[name])
