"""torch-optim: every class against the class itself, and what is refused."""

import copy
import re

import pytest
import torch

import llmx_optimizers
from llmx import Registry
from llmx.errors import RecipeError
from llmx.options import structure
from llmx.testing.frame import Subject, parts_of, run_check, suite
from llmx.testing.reference import loss_sum, random_batch, reference_model

COMPONENT = next(each for each in llmx_optimizers.llmx_optimizers() if each.name == "torch-optim")
NAMES = ["ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"]
CHECKS = [check for check in suite("optimizer") if check.name != "known-algorithm"]  # this file has that one


def build(model, **values):
    """Build an optimizer as a run does: structured options, loaded target."""
    options, faults = structure(COMPONENT.options, values, "optimizer")
    assert not faults
    return COMPONENT.load()(options, model)


@pytest.mark.parametrize("name", NAMES)
def test_every_class_keeps_the_promises_of_an_optimizer(name, tmp_path):
    """The conformance kit passes each, also the step on the meta device that some cannot take by themselves."""
    (part,) = parts_of("torch-optim", Registry(), {"torch-optim": {"algorithm": name}})
    assert len(CHECKS) >= 10
    for check in CHECKS:
        folder = tmp_path / check.name
        folder.mkdir()
        result = run_check(check, Subject(part, folder))
        assert result.status == "passed", (check.name, result.message)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RMSprop", {"alpha": 0.9, "momentum": 0.5, "centered": True}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("NAdam", {"betas": [0.8, 0.9], "decoupled_weight_decay": True}),
        ("Adafactor", {"d": 2, "eps": [1e-9, 0.01]}),
        ("AdamW", {"amsgrad": True}),
    ],
)
def test_it_is_the_class_with_its_options(name, options):
    """Three steps give the weights of the class built by hand, with decay on hidden matrices and the head alone."""
    model = reference_model()
    other = copy.deepcopy(model)
    optimizer = build(model, algorithm=name, lr=0.01, weight_decay=0.5, embedding_lr=0.02, options=options)
    roles = other.roles()
    groups = [
        {
            "params": [each],
            "weight_decay": 0.5 if roles[key] in ("hidden", "head") else 0.0,
            "lr": 0.02 if roles[key] == "embedding" else 0.01,
        }
        for key, each in other.named_parameters()
    ]
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    reference = getattr(torch.optim, name)(groups, **arguments)
    for step in range(3):
        for each, steps in ((model, optimizer), (other, reference)):
            each.zero_grad()
            batch = random_batch(seed=step)
            (loss_sum(each, batch) / batch.count).backward()
            steps.step()
    for key, wanted in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(key), wanted, rtol=1e-5, atol=1e-7)


def test_what_is_not_given_is_the_class_own():
    """Rate and decay are those of the class; norms and biases do not decay all the same."""
    groups = build(reference_model(), algorithm="AdamW").param_groups
    assert [(each["lr"], each["weight_decay"]) for each in groups] == [(1e-3, 1e-2), (1e-3, 0.0), (1e-3, 0.0)]
    asgd = build(reference_model(), algorithm="ASGD", options={"lambd": 0.2}).param_groups
    assert [each["lambd"] for each in asgd] == [0.2, 0.0, 0.0]


def test_auto_is_the_law():
    """The rate follows from the model's size, with its working."""
    model = reference_model()
    size = sum(each.numel() for each in model.parameters())
    group = build(model, algorithm="NAdam", lr="auto").param_groups[0]
    assert group["lr"] == pytest.approx(5e-5 * (7e9 / size) ** 0.25)
    assert group["lr_working"] == f"5e-5 x ({size:,} / 7e9)^-0.25"


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        (
            {"algorithm": "rmsprob"},
            [r"optimizer\.algorithm = 'rmsprob': .* nearest: RMSprop; there are ASGD, .*, SGD$"],
        ),
        ({"algorithm": "Optimizer"}, [r"optimizer\.algorithm = 'Optimizer': torch\.optim has no such class"]),
        ({"algorithm": "lr_scheduler"}, [r"optimizer\.algorithm = 'lr_scheduler': torch\.optim has no such class"]),
        ({"algorithm": "LBFGS"}, [r"optimizer\.algorithm = 'LBFGS': it evaluates"]),
        ({"algorithm": "SparseAdam"}, [r"optimizer\.algorithm = 'SparseAdam': it takes sparse"]),
        ({"algorithm": "Rprop"}, [r"optimizer\.algorithm = 'Rprop': its steps have sizes of their own"]),
        ({"algorithm": "Muon"}, [r"optimizer\.algorithm = 'Muon': .*optimizer\.name = \"muon\""]),
        (
            {"algorithm": "SGD", "options": {"momentum": "x", "nesterov": 1, "beta": 1.0, "lr": 1.0, "params": 1}},
            [
                r"optimizer\.options\.momentum must be float, not 'x' \(str\)$",
                r"optimizer\.options\.nesterov must be bool, not 1 \(int\)$",
                r"optimizer\.options\.beta: SGD has no such option; it has momentum, dampening, nesterov",
                r"optimizer\.options\.lr: give optimizer\.lr instead$",
                r"optimizer\.options\.params: is the model's$",
            ],
        ),
        (
            {"algorithm": "Adam", "options": {"betas": [0.9]}},
            [r"optimizer\.options\.betas must be list of 2 float, not \[0\.9\]"],
        ),
        ({"algorithm": "Adam", "options": {"betas": [0.9, 1.5]}}, [r"optimizer\.options: Adam refuses: Invalid beta"]),
        ({"algorithm": "SGD", "options": {"nesterov": True}}, [r"optimizer\.options: SGD refuses: Nesterov"]),
    ],
)
def test_what_torch_does_not_have_is_said_line_by_line(values, lines):
    """Every fault is one line that names the option, what was given and what there is."""
    with pytest.raises(RecipeError) as caught:
        build(reference_model(), **values)
    assert len(caught.value.faults) == len(lines)
    for fault, line in zip(caught.value.faults, lines, strict=True):
        assert "\n" not in fault
        assert re.match(line, fault), fault


def test_the_class_must_be_named():
    """There is no algorithm by default."""
    _, faults = structure(COMPONENT.options, {}, "optimizer")
    assert [(fault.path, fault.message) for fault in faults] == [("optimizer.algorithm", "is required (str)")]
