"""The options of Qwen3 and Qwen2.5: sizes as published, the beginning of a training, and what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmx import LlmxError, RecipeError
from llmx.options import structure
from llmx_qwen import Qwen3Options, Qwen25Options
from llmx_qwen.model import Qwen3, Qwen25

FAMILIES = {"qwen3": (Qwen3, Qwen3Options), "qwen2.5": (Qwen25, Qwen25Options)}
PUBLISHED = {
    "qwen3": {
        "0.6b": 596_049_920,
        "1.7b": 1_720_574_976,
        "4b": 4_022_468_096,
        "8b": 8_190_735_360,
        "14b": 14_768_307_200,
        "32b": 32_762_123_264,
    },
    "qwen2.5": {
        "0.5b": 494_032_768,
        "1.5b": 1_543_714_304,
        "3b": 3_085_938_688,
        "7b": 7_615_616_512,
        "14b": 14_770_033_664,
        "32b": 32_763_876_352,
        "72b": 72_706_203_648,
    },
}
"""Parameters of each model as the publisher's page counts them."""
SMALL = {"tiny": 1.5e6, "small": 6e6, "medium": 24e6, "large": 96e6}


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_as_stated(name: str) -> None:
    """The published sizes to the parameter; the small ones within 2 % with a vocabulary of 4096."""
    cls, options = FAMILIES[name]
    assert {*PUBLISHED[name], *SMALL} == set(options.shapes)
    for preset in options.shapes:
        rows = (
            4096
            if preset in SMALL
            else 152_064
            if name == "qwen2.5" and not options(preset=preset).of("tied")
            else 151_936
        )
        with torch.device("meta"):
            model = cls(options(preset=preset), vocab_size=rows)
        count = sum(parameter.numel() for parameter in model.parameters())
        if preset in SMALL:
            assert count == pytest.approx(SMALL[preset], rel=0.02)
        else:
            assert count == PUBLISHED[name][preset], preset


def test_a_larger_embedding_than_the_tokenizer_is_normal() -> None:
    """`vocab_size` is the rows of the embedding; fewer than the tokenizer's ids are refused."""
    values = {"preset": "tiny", "layers": 1}
    assert Qwen3(Qwen3Options(vocab_size=384, **values), vocab_size=263).vocab_size == 384
    with pytest.raises(RecipeError, match=r"model\.vocab_size = 100: fewer than the tokenizer's 263 ids"):
        Qwen3(Qwen3Options(vocab_size=100, **values), vocab_size=263)


@pytest.mark.parametrize("name", FAMILIES)
def test_biases_begin_at_zero_and_norms_at_one(name: str) -> None:
    """And matrices with the spread that is asked for; what writes into the residual stream has less, by depth."""
    torch.manual_seed(0)
    cls, options = FAMILIES[name]
    model = cls(options(init_std=0.1), vocab_size=300)
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.full_like(parameter, 1.0 if "norm" in key else 0.0)), key
        else:
            wanted = 0.1 / 10**0.5 if key.endswith(("o_proj.weight", "down_proj.weight")) else 0.1
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.05), key
    assert sum("bias" in key for key, _ in model.named_parameters()) == (15 if name == "qwen2.5" else 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kv_heads": 3}, "kv_heads = 3 must divide heads = 4"),
        ({"dim": 130}, "dim = 130 must be a multiple of heads = 4"),
        ({"dim": 12}, "head_dim = 3 must be even"),
        ({"layers": 0}, "'layers' must be >= 1: 0"),
        ({"preset": "9b"}, "'preset' must be in"),
        ({"yarn_beta_fast": 8.0}, "yarn_beta_fast says how YaRN stretches the context: set yarn_factor too"),
        ({"yarn_factor": 0.5}, "'yarn_factor' must be >= 1: 0.5"),
        ({"yarn_factor": 4.0, "context_length": 512}, "context_length = 512 must be at least .* 1024: leave it unset"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_options_that_do_not_fit_are_said(name: str, values: dict[str, Any], message: str) -> None:
    """Types and ranges first, then what one says of another."""
    _, faults = structure(FAMILIES[name][1], values, "model")
    assert len(faults) == 1
    with pytest.raises(LlmxError, match=message):
        raise LlmxError(faults[0].message)
