"""The built-in schedules: their values against torch and transformers, and what holds for all of them."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.optimization import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
    get_wsd_schedule,
)

import llmx_schedulers
from llmx.errors import RecipeError
from llmx.options import describe, structure

COMPONENTS = {each.name: each for each in llmx_schedulers.llmx_schedulers()}
DECAYING = ["cosine", "linear", "polynomial", "wsd"]
few = settings(max_examples=30)


def build(name, total_steps, **values):
    """Build a schedule as a run does: structured options, loaded target."""
    component = COMPONENTS[name]
    options, faults = structure(component.options, values, name)
    assert not faults
    return component.load()(options, total_steps)


def sgd():
    """An optimizer with a peak rate of 1, for schedules of torch and transformers to hold on to."""
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def test_importing_and_building_need_no_torch():
    """A schedule is plain arithmetic: it is imported, built and called without torch."""
    code = (
        "import sys, llmx_schedulers as p\n"
        "factors = [each.load()(each.options(), 10)(9) for each in p.llmx_schedulers()]\n"
        "print(len(factors), 'torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["5", "False"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_option_is_explained(name):
    """No option is without a meaning."""
    options = describe(COMPONENTS[name].options)
    assert options
    assert all(option.meaning for option in options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cosine", {"warmup_steps": -1}),
        ("linear", {"warmup_ratio": 1.5}),
        ("linear", {"final_ratio": -0.1}),
        ("polynomial", {"power": 0.0}),
        ("wsd", {"decay_ratio": 1.1}),
        ("wsd", {"shape": "cosine"}),
    ],
)
def test_an_option_out_of_its_range_is_a_fault(name, values):
    """A value outside the documented range is refused under its own path."""
    _, faults = structure(COMPONENTS[name].options, values, "scheduler")
    assert [fault.path for fault in faults] == [f"scheduler.{next(iter(values))}"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_warmup_longer_than_the_run_is_refused(name):
    """The text names the option, what was given and how long the run is; as long as the run is allowed."""
    with pytest.raises(RecipeError, match=r"^scheduler\.warmup_steps = 500: longer than the run of 200 steps$"):
        build(name, 200, warmup_steps=500)
    values = {"decay_ratio": 0.0} if name == "wsd" else {}
    assert build(name, 200, warmup_steps=200, **values)(199) == 1.0


def test_warmup_and_decay_must_both_fit():
    """wsd refuses a decay that would begin during the warm-up; a fit that only rounding spoils is none of that."""
    with pytest.raises(RecipeError, match=r"^scheduler\.decay_ratio = 0\.6: 50 steps of warm-up and 60 of decay"):
        build("wsd", 100, warmup_steps=50, decay_ratio=0.6)
    rounded = build("wsd", 3, warmup_ratio=0.5, decay_ratio=0.5)
    assert [rounded(step) for step in range(4)] == [0.5, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", COMPONENTS)
def test_warmup_is_linear_and_ends_at_the_peak(name):
    """The first eight factors are 1/8, 2/8, ..., 8/8: what torch's LinearLR gives."""
    optimizer = sgd()
    reference = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 8, end_factor=1.0, total_iters=7)
    schedule = build(name, 100, warmup_steps=8)
    for step in range(8):
        assert schedule(step) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert schedule(7) == 1.0


def test_warmup_steps_go_before_warmup_ratio():
    """The ratio, 0.1 unless it is given, counts only where no steps are given; 0 steps is no warm-up."""
    assert build("constant", 50)(0) == 1 / 5
    assert build("constant", 50, warmup_ratio=0.5)(0) == 1 / 25
    assert build("constant", 50, warmup_ratio=0.5, warmup_steps=2)(0) == 1 / 2
    assert build("constant", 50, warmup_steps=0)(0) == 1.0


def test_constant_stays_at_the_peak():
    """After the warm-up every factor is 1."""
    schedule = build("constant", 40, warmup_steps=10)
    assert {schedule(step) for step in range(9, 40)} == {1.0}


@few
@given(
    total_steps=st.integers(1, 400),
    warmup=st.floats(0, 0.6),
    final_ratio=st.sampled_from([0.0, 0.1, 1.0]),
    power=st.floats(0.3, 4),
)
def test_decay_follows_the_formula_of_transformers(total_steps, warmup, final_ratio, power):
    """From the end of the warm-up on, each factor is what transformers' schedule of that name gives."""
    warmup_steps = int(warmup * total_steps)
    final = {"final_ratio": final_ratio, "warmup_steps": warmup_steps}
    pairs = [
        (
            build("cosine", total_steps, **final),
            get_cosine_with_min_lr_schedule_with_warmup(sgd(), warmup_steps, total_steps, min_lr_rate=final_ratio),
        ),
        (
            build("linear", total_steps, warmup_steps=warmup_steps),
            get_linear_schedule_with_warmup(sgd(), warmup_steps, total_steps),
        ),
    ]
    if final_ratio < 1:  # the reference refuses an end as high as the peak
        reference = get_polynomial_decay_schedule_with_warmup(
            sgd(), warmup_steps, total_steps, lr_end=final_ratio, power=power
        )
        pairs.append((build("polynomial", total_steps, power=power, **final), reference))
    for schedule, reference in pairs:
        for step in range(warmup_steps, total_steps):
            assert schedule(step) == pytest.approx(reference.lr_lambdas[0](step), abs=1e-12)


@pytest.mark.parametrize(("shape", "decay_type"), [("linear", "linear"), ("sqrt", "1-sqrt")])
@pytest.mark.parametrize("final_ratio", [0.0, 0.2])
def test_wsd_follows_the_formula_of_transformers(shape, decay_type, final_ratio):
    """From the end of the warm-up on, wsd is transformers' with as many stable and decaying steps."""
    schedule = build("wsd", 90, warmup_steps=7, decay_ratio=0.3, final_ratio=final_ratio, shape=shape)
    reference = get_wsd_schedule(
        sgd(),
        num_warmup_steps=7,
        num_decay_steps=27,
        num_training_steps=90,
        decay_type=decay_type,
        min_lr_ratio=final_ratio,
    )
    factors = [schedule(step) for step in range(7, 90)]
    assert factors == pytest.approx([reference.lr_lambdas[0](step) for step in range(7, 90)])
    assert factors[:56] == [1.0] * 56
    assert len(set(factors)) == 27  # 26 below the peak


@pytest.mark.parametrize("name", DECAYING)
def test_the_step_after_the_last_would_have_the_final_ratio(name):
    """The decay leads to final_ratio at step == total_steps, so the last step of the run still moves the weights."""
    for final_ratio in (0.0, 0.25):
        schedule = build(name, 40, warmup_steps=4, final_ratio=final_ratio)
        assert schedule(40) == pytest.approx(final_ratio)
        assert schedule(39) > final_ratio


@pytest.mark.parametrize("name", COMPONENTS)
@few
@given(total_steps=st.integers(1, 300), warmup_ratio=st.floats(0, 0.8), final_ratio=st.floats(0, 1))
def test_factors_rise_then_fall_within_bounds(name, total_steps, warmup_ratio, final_ratio):
    """For a run of any length: 0 < factor <= 1, strictly rising in the warm-up and never rising after it."""
    values = {} if name == "constant" else {"final_ratio": final_ratio}
    schedule = build(name, total_steps, warmup_ratio=warmup_ratio, **values)
    factors = [schedule(step) for step in range(total_steps)]
    warmup_steps = round(warmup_ratio * total_steps)
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:warmup_steps]))
    after = factors[max(0, warmup_steps - 1) :]
    assert all(a >= b - 1e-12 for a, b in pairwise(after))


@pytest.mark.parametrize("name", COMPONENTS)
@few
@given(steps=st.lists(st.integers(0, 59), min_size=2, max_size=8), warmup_steps=st.integers(0, 40))
def test_a_factor_depends_on_the_step_alone(name, steps, warmup_steps):
    """Asked in any order, again, or of a schedule built anew, a step has the same factor: so a run can resume."""
    assume(len(set(steps)) > 1)
    schedule = build(name, 60, warmup_steps=warmup_steps)
    first = {step: schedule(step) for step in steps}
    assert {step: schedule(step) for step in reversed(steps)} == first
    anew = build(name, 60, warmup_steps=warmup_steps)
    assert {step: anew(step) for step in sorted(steps)} == first
