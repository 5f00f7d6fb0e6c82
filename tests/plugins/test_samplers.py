"""The built-in samplers: what each link keeps, against transformers, and the contract that all of them share.

Shapes: `B` batch, `V` vocabulary.
"""

import math
import os
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import llmx_samplers
from llmx.options import describe, structure
from llmx.protocols import Sampler

COMPONENTS = {each.name: each for each in llmx_samplers.llmx_samplers()}
V = 23
few = settings(max_examples=20)


def build(name, **values):
    """Build a link as a run does: structured options, loaded target."""
    component = COMPONENTS[name]
    options, faults = structure(component.options, values, name)
    assert not faults
    return component.load()(options, None)


def random_logits(seed, rows=5, scale=3.0):
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * scale


def run(link, logits_BV, prompts=None):
    prompts = prompts or [[]] * len(logits_BV)
    return link(logits_BV.clone(), [link.start(prompt) for prompt in prompts])


def kept(name, logits, **values):
    """Return the tokens that may still be drawn from one row."""
    row_V = run(build(name, **values), torch.tensor([logits]))[0]
    return [token for token, logit in enumerate(row_V.tolist()) if logit > -math.inf]


def test_importing_the_plugin_does_not_import_torch():
    """Names and options of all samplers are read without torch."""
    code = "import sys, llmx_samplers as p; print(len(p.llmx_samplers()), 'torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["9", "False"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_builds_a_sampler_and_explains_its_options(name):
    """The defaults are valid, the target exists, and no option is without a meaning."""
    assert isinstance(build(name), Sampler)
    assert all(option.meaning for option in describe(COMPONENTS[name].options))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("temperature", {"temperature": 0.0}, "must be > 0.*use greedy"),
        ("temperature", {"temperature": math.inf}, "finite"),
        ("temperature", {"temperature": math.nan}, "must be > 0"),
        ("top-k", {"k": 0}, "must be >= 1"),
        ("top-p", {"p": 0.0}, "must be > 0"),
        ("top-p", {"p": 1.1}, "must be <= 1"),
        ("min-p", {"p": -0.1}, "must be >= 0"),
        ("min-p", {"p": 1.1}, "must be <= 1"),
        ("repetition-penalty", {"penalty": 0.9}, "must be >= 1"),
        ("repetition-penalty", {"penalty": math.inf}, "must be < inf"),
        ("no-repeat-ngram", {"size": 0}, "must be >= 1"),
    ],
)
def test_an_option_out_of_its_range_is_a_fault(name, values, message):
    """A value outside the documented range is refused, with the range in the text."""
    _, faults = structure(COMPONENTS[name].options, values, "sampler")
    assert len(faults) == 1
    assert faults[0].path == f"sampler.{next(iter(values))}"
    assert re.search(message, faults[0].message)


# --- the contract of every link -------------------------------------------------------------------------------------

LINKS = [
    ("greedy", {}),
    ("temperature", {"temperature": 0.7}),
    ("temperature", {"temperature": 1e-320}),
    ("temperature", {"temperature": 1e300}),
    ("top-k", {"k": 1}),
    ("top-k", {"k": 1000}),
    ("top-p", {"p": 1e-9}),
    ("top-p", {"p": 1.0}),
    ("min-p", {"p": 0.0}),
    ("min-p", {"p": 1.0}),
    ("repetition-penalty", {"penalty": 1e30}),
    ("no-repeat-ngram", {"size": 1}),
    ("no-repeat-ngram", {"size": 2}),
]


def hard_rows(dtype):
    """Rows that tempt a link to drop everything, and prompts that hold the whole vocabulary."""
    largest = torch.finfo(dtype).max
    logits_BV = random_logits(0, rows=8).to(dtype)
    logits_BV[1] = -math.inf
    logits_BV[1, 4] = -5.0  # one token left
    logits_BV[2] = 0.0  # all tied
    logits_BV[3] = -largest
    logits_BV[4] = largest
    logits_BV[5, ::2] = -math.inf
    logits_BV[6] *= 1e4
    prompts = [[*range(V), *range(V)] for _ in logits_BV]
    prompts[0], prompts[1] = [], [4, 4]
    return logits_BV, prompts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "values"), LINKS)
def test_no_row_is_emptied_and_no_token_comes_back(name, values, dtype):
    """Every row keeps a token, no logit becomes nan or +inf, what was -inf stays -inf; shape and type stay."""
    logits_BV, prompts = hard_rows(dtype)
    result_BV = run(build(name, **values), logits_BV, prompts)
    assert result_BV.shape == logits_BV.shape
    assert result_BV.dtype == dtype
    assert (result_BV > -math.inf).any(-1).all()
    assert (result_BV < math.inf).all()
    assert (result_BV[logits_BV == -math.inf] == -math.inf).all()


@pytest.mark.parametrize(("name", "values"), LINKS)
def test_a_row_does_not_depend_on_the_rows_beside_it(name, values):
    """A row alone gives bit for bit what it gives in a batch."""
    logits_BV, prompts = hard_rows(torch.float32)
    link = build(name, **values)
    together_BV = run(link, logits_BV, prompts)
    alone_BV = torch.cat([run(link, logits_BV[i : i + 1], prompts[i : i + 1]) for i in range(len(prompts))])
    assert torch.equal(together_BV, alone_BV)


@pytest.mark.parametrize("name", ["repetition-penalty", "no-repeat-ngram"])
def test_tokens_accepted_one_by_one_count_as_a_prompt_does(name):
    """A state is a function of the sequence, wherever the prompt ends and whenever logits were asked for."""
    values = {"size": 2} if name == "no-repeat-ngram" else {}
    link, tokens, logits_BV = build(name, **values), [1, 2, 3, 1, 2, 5, 1], random_logits(1, rows=1)
    whole_BV = run(link, logits_BV, [tokens])
    state = link.start(tokens[:2])
    for token in tokens[2:]:
        link(logits_BV.clone(), [state])
        link.accept(state, token)
    assert torch.equal(link(logits_BV.clone(), [state]), whole_BV)
    assert not torch.equal(whole_BV, logits_BV)


# --- what each link keeps -------------------------------------------------------------------------------------------


def test_greedy_keeps_the_best_token_with_its_logit():
    """Only the argmax can be drawn; of tied tokens the one with the lowest id."""
    assert kept("greedy", [0.5, 2.0, -1.0, 2.0]) == [1]
    assert run(build("greedy"), torch.tensor([[0.5, 2.0, -1.0]]))[0, 1] == 2.0


def test_top_k_keeps_what_is_tied_with_the_last():
    """Which of two equal tokens stays is not left to the sort: both do."""
    assert kept("top-k", [1.0, 3.0, 2.0, 2.0, 0.0], k=2) == [1, 2, 3]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    """Probabilities 0.5, 0.3, 0.15, 0.05: what is kept reaches p, and without its least token would not."""
    logits = [math.log(p) for p in (0.15, 0.5, 0.05, 0.3)]
    assert kept("top-p", logits, p=0.01) == [1]
    assert kept("top-p", logits, p=0.49) == [1]
    assert kept("top-p", logits, p=0.51) == [1, 3]
    assert kept("top-p", logits, p=0.9) == [0, 1, 3]
    assert kept("top-p", logits, p=0.96) == [0, 1, 2, 3]


def test_top_p_takes_tied_tokens_by_their_ids():
    """Of four equal tokens, p = 0.6 needs three: the first three."""
    assert kept("top-p", [0.0] * 4, p=0.6) == [0, 1, 2]


def test_min_p_measures_from_the_best_token():
    """Probabilities 0.5, 0.3, 0.15, 0.05 and p = 0.2: those of at least 0.1 stay; 0 keeps all and 1 the best."""
    logits = [math.log(p) for p in (0.15, 0.5, 0.05, 0.3)]
    assert kept("min-p", logits, p=0.2) == [0, 1, 3]
    assert kept("min-p", logits, p=0.0) == [0, 1, 2, 3]
    assert kept("min-p", logits, p=1.0) == [1]


def test_a_tiny_temperature_is_greedy():
    """Where division overflows, the best token still has all the probability."""
    logits_BV = random_logits(2)
    probs_BV = run(build("temperature", temperature=1e-40), logits_BV).softmax(-1)
    assert torch.equal(probs_BV.argmax(-1), logits_BV.argmax(-1))
    assert torch.equal(probs_BV.amax(-1), torch.ones(len(logits_BV)))


def test_no_repeat_ngram_leaves_a_row_that_it_would_empty():
    """When every token that could be drawn is banned, the row is as it was, and its neighbour is still filtered."""
    logits_BV = torch.full((2, V), -math.inf)
    logits_BV[:, 3] = 1.0
    logits_BV[1, 4] = 0.0
    result_BV = run(build("no-repeat-ngram", size=2), logits_BV, [[1, 3, 1]] * 2)
    assert torch.equal(result_BV[0], logits_BV[0])
    assert result_BV[1].isfinite().nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize(
    ("name", "values", "reference"),
    [
        ("temperature", {"temperature": 0.37}, TemperatureLogitsWarper(0.37)),
        ("temperature", {"temperature": 1.9}, TemperatureLogitsWarper(1.9)),
        ("top-k", {"k": 1}, TopKLogitsWarper(1)),
        ("top-k", {"k": 7}, TopKLogitsWarper(7)),
        ("top-k", {"k": 99}, TopKLogitsWarper(99)),
        ("top-p", {"p": 0.2}, TopPLogitsWarper(0.2)),
        ("top-p", {"p": 0.83}, TopPLogitsWarper(0.83)),
        ("top-p", {"p": 1.0}, TopPLogitsWarper(1.0)),
        ("min-p", {"p": 0.07}, MinPLogitsWarper(0.07)),
        ("min-p", {"p": 0.9}, MinPLogitsWarper(0.9)),
    ],
)
@few
@given(seed=st.integers(0, 2**31))
def test_filters_do_what_those_of_transformers_do(name, values, reference, seed):
    """On random logits, some of them -inf, a link gives what transformers' processor of that name gives."""
    logits_BV = random_logits(seed)
    logits_BV[0, :9] = -math.inf
    torch.testing.assert_close(run(build(name, **values), logits_BV), reference(None, logits_BV.clone()))


@pytest.mark.parametrize(
    ("name", "values", "reference"),
    [
        ("repetition-penalty", {"penalty": 1.3}, RepetitionPenaltyLogitsProcessor(1.3)),
        ("no-repeat-ngram", {"size": 1}, NoRepeatNGramLogitsProcessor(1)),
        ("no-repeat-ngram", {"size": 2}, NoRepeatNGramLogitsProcessor(2)),
        ("no-repeat-ngram", {"size": 3}, NoRepeatNGramLogitsProcessor(3)),
    ],
)
@few
@given(seed=st.integers(0, 2**31), prompt_length=st.integers(1, 6))
def test_history_links_do_what_those_of_transformers_do(name, values, reference, seed, prompt_length):
    """At every step of a sequence over few tokens, a link gives what transformers' processor gives."""
    tokens_BT = torch.randint(4, (3, 14), generator=torch.Generator().manual_seed(seed))
    link = build(name, **values)
    states = [link.start(row[:prompt_length]) for row in tokens_BT.tolist()]
    for length in range(prompt_length, tokens_BT.shape[1]):
        logits_BV = random_logits(seed + length, rows=3)
        wanted_BV = reference(tokens_BT[:, :length], logits_BV.clone())
        torch.testing.assert_close(link(logits_BV.clone(), states), wanted_BV)
        for state, token in zip(states, tokens_BT[:, length].tolist(), strict=True):
            link.accept(state, token)
