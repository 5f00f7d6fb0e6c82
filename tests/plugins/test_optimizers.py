"""The built-in optimizers: their groups, and their updates against the formulas of the papers."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import llmx_optimizers
from llmx.errors import PluginError, RecipeError
from llmx.options import describe, structure

COMPONENTS = {each.name: each for each in llmx_optimizers.llmx_optimizers()}
ROLES = {
    "embed.weight": "embedding",
    "up.weight": "hidden",
    "up.bias": "bias",
    "norm.weight": "norm",
    "norm.bias": "bias",
    "head.weight": "head",
}
DECAYING = ["up.weight", "head.weight"]


class Tiny(nn.Module):
    """A model with one parameter of every role."""

    def __init__(self, roles=ROLES, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.up, self.norm = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self._roles = roles
        self.to(dtype)

    def roles(self):
        return self._roles

    def forward(self, ids_T):
        return self.head(self.norm(self.up(self.embed(ids_T)).tanh()))


def build(name, model, **values):
    """Build an optimizer as a run does: structured options, loaded target."""
    component = COMPONENTS[name]
    options, faults = structure(component.options, values, name)
    assert not faults
    return component.load()(options, model)


def backward(model, step):
    """Set the gradients of a next-token loss over tokens that differ from step to step."""
    ids_T = torch.arange(step, step + 5) % 7
    model.zero_grad()
    nn.functional.cross_entropy(model(ids_T[:-1]), ids_T[1:]).backward()


def train(model, optimizer, steps):
    for step in steps:
        backward(model, step)
        optimizer.step()


def names_by_group(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(each)] for each in group["params"]] for group in optimizer.param_groups}


def test_importing_the_plugin_does_not_import_torch():
    """Names and options of all optimizers are read without torch."""
    code = "import sys, llmx_optimizers as p; print(len(p.llmx_optimizers()), 'torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    count, imported = done.stdout.split()
    assert int(count) >= 2
    assert imported == "False"


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_every_option_is_explained(name):
    """No option is without a meaning."""
    options = describe(COMPONENTS[name].options)
    assert {option.name for option in options} == {"lr", "embedding_lr", "betas", "eps", "weight_decay"}
    assert all(option.meaning for option in options)


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0.0},
        {"lr": float("inf")},
        {"lr": float("nan")},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"betas": [-0.1, 0.9]},
        {"eps": 0.0},
        {"weight_decay": -0.1},
    ],
)
def test_an_option_out_of_its_range_is_a_fault(name, values):
    """A value outside the documented range is refused under its own path."""
    _, faults = structure(COMPONENTS[name].options, values, "optimizer")
    assert [fault.path for fault in faults] == [f"optimizer.{next(iter(values))}"]


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_hidden_matrices_and_the_head_decay_and_nothing_else(name):
    """Three named groups hold every parameter once; each begins at the peak rate."""
    model = Tiny()
    optimizer = build(name, model, lr=0.02, weight_decay=0.3)
    assert names_by_group(model, optimizer) == {
        "decay": DECAYING,
        "embedding": ["embed.weight"],
        "no_decay": [each for each in ROLES if each not in DECAYING and "embed" not in each],
    }
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02, 0.02]


def test_the_embedding_may_have_a_rate_of_its_own():
    """`embedding_lr` is the embedding's peak and nobody else's."""
    optimizer = build("adamw", Tiny(), lr=0.02, embedding_lr=0.5)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "decay": 0.02,
        "embedding": 0.5,
        "no_decay": 0.02,
    }


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_auto_is_the_law_of_the_models_size(name):
    """5e-5 at 7e9 parameters, falling with their fourth root, frozen ones counted too; the working goes into a state
    dict. A rate of the embedding's own stays."""
    model = Tiny()
    size = sum(each.numel() for each in model.parameters())
    model.up.weight.requires_grad_(False)
    optimizer = build(name, model, lr="auto", embedding_lr=0.5)
    groups = {group["name"]: group for group in optimizer.state_dict()["param_groups"]}
    for group in ("decay", "no_decay"):
        assert groups[group]["lr"] == pytest.approx(5e-5 * (7e9 / size) ** 0.25)
        assert groups[group]["lr_working"] == f"5e-5 x ({size:,} / 7e9)^-0.25"
    assert groups["embedding"]["lr"] == 0.5
    assert "lr_working" not in groups["embedding"]
    assert "lr_working" not in build(name, Tiny(), lr=0.1).param_groups[0]


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_frozen_parameter_is_left_out(name):
    """What requires no gradient is in no group, and a group that has nothing left is not there."""
    model = Tiny()
    model.head.weight.requires_grad_(False)
    assert names_by_group(model, build(name, model))["decay"] == ["up.weight"]
    model.up.weight.requires_grad_(False)
    assert list(names_by_group(model, build(name, model))) == ["embedding", "no_decay"]


def test_a_model_that_is_frozen_whole_is_refused():
    """The text says what is the matter, not that a list is empty."""
    with pytest.raises(RecipeError, match=r"^optimizer: nothing to train"):
        build("adamw", Tiny().requires_grad_(False))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {name: role for name, role in ROLES.items() if name != "up.bias"},
            r"Tiny\.roles\(\) gives 'up\.bias' no role",
        ),
        (ROLES | {"up.weight": "hiden"}, r"Tiny\.roles\(\) gives 'up\.weight' the role 'hiden': want one of .*hidden"),
    ],
)
def test_a_parameter_without_a_role_is_the_models_fault(roles, message):
    """A role that is missing or misspelt stops the run and names the parameter: it would decide on decay silently."""
    with pytest.raises(PluginError, match=message):
        build("adamw", Tiny(roles))


def expected_updates(model, steps, *, lr, betas, eps, decay, decoupled):
    """Adam by the formulas of its paper (algorithm 1), with AdamW's decay or an L2 penalty; a plain loop."""
    moments = {name: (torch.zeros_like(each), torch.zeros_like(each)) for name, each in model.named_parameters()}
    for t, step in enumerate(steps, start=1):
        backward(model, step)
        for name, parameter in model.named_parameters():
            weight_decay = decay if name in DECAYING else 0.0
            value, gradient = parameter.data.clone(), parameter.grad.clone()
            if not decoupled:
                gradient += weight_decay * value
            m, v = moments[name]
            m = betas[0] * m + (1 - betas[0]) * gradient
            v = betas[1] * v + (1 - betas[1]) * gradient**2
            moments[name] = m, v
            m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
            shrunk = lr * weight_decay * value if decoupled else 0.0
            parameter.data = value - shrunk - lr * m_hat / (v_hat.sqrt() + eps)
        yield {name: each.detach().clone() for name, each in model.named_parameters()}


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_updates_are_those_of_the_papers(name):
    """Step by step, in double precision, every weight is what the formulas of the paper give."""
    model = Tiny(dtype=torch.float64)
    reference = copy.deepcopy(model)
    values = {"lr": 0.05, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.2}
    optimizer = build(name, model, **values)
    wanted = expected_updates(
        reference, range(6), lr=0.05, betas=(0.8, 0.9), eps=1e-6, decay=0.2, decoupled=name == "adamw"
    )
    for step, weights in enumerate(wanted):
        train(model, optimizer, [step])
        for parameter_name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.data, weights[parameter_name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_loaded_state_goes_on_bit_for_bit(name):
    """Three steps, a state dict into a new optimizer, three more: the weights and the state of six steps in one."""
    whole, first = Tiny(), Tiny()
    whole_optimizer, first_optimizer = build(name, whole), build(name, first)
    train(whole, whole_optimizer, range(6))
    train(first, first_optimizer, range(3))
    second = Tiny()
    second.load_state_dict(first.state_dict())
    second_optimizer = build(name, second, lr=1.0)  # the rate comes from the state
    second_optimizer.load_state_dict(copy.deepcopy(first_optimizer.state_dict()))
    train(second, second_optimizer, range(3, 6))
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)
    wanted, found = whole_optimizer.state_dict(), second_optimizer.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    assert len(wanted["state"]) == len(ROLES)
    for index, state in wanted["state"].items():
        assert all(torch.equal(found["state"][index][key], each) for key, each in state.items())


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_the_one_kernel_update_is_taken_where_torch_has_it(name):
    """Fused for floating weights on CPU (or CUDA); on the meta device, where nothing is computed, torch chooses."""
    assert all(group["fused"] for group in build(name, Tiny()).param_groups)
    assert not any(group["fused"] for group in build(name, Tiny().to("meta")).param_groups)
