"""The parts of a block that keep little for the backward pass: the same numbers as the plain formulas.

Shapes: `B` batch, `T` time, `N` query heads, `K` key-value heads, `H` head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmx.nn.attention import Attention, attend, attention_mask
from llmx.nn.decoder import Block
from llmx.nn.mlp import SwiGLU, gated
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import rotary_tables, rotate
from llmx.train.memory import Recomputed

TOKENS = {"one block": 96, "two blocks": 200, "uneven blocks": 300}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight.to(x.dtype)


def our_norm(x: Tensor, weight: Tensor) -> Tensor:
    norm = RMSNorm(x.shape[-1], 1e-6)
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def plain_rotation(x_BNTH: Tensor) -> Tensor:
    cos, sin = (table.to(x_BNTH.dtype) for table in tables(x_BNTH.shape[2], x_BNTH.shape[3]))
    left, right = x_BNTH.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


def our_rotation(x_BNTH: Tensor) -> Tensor:
    return rotate(x_BNTH, tables(x_BNTH.shape[2], x_BNTH.shape[3]))


def tables(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    return rotary_tables(torch.arange(tokens)[None], width, 100.0)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril() if mask is None else mask[:, None]
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def our_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, None)


def plain_gated(gate: Tensor, up: Tensor) -> Tensor:
    return gate * gate.sigmoid() * up


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "norm": (our_norm, plain_norm, [(2, 9, 3, 16), (16,)]),
    "rotation": (our_rotation, plain_rotation, [(2, 3, 9, 16)]),
    "gated": (gated, plain_gated, [(2, 9, 16), (2, 9, 16)]),
    "attention": (our_attention, plain_attention, [(2, 4, 200, 8), (2, 2, 200, 8), (2, 2, 200, 8)]),
}


def leaves(shapes: list[tuple[int, ...]], dtype: torch.dtype, *, strided: bool) -> list[Tensor]:
    """Return inputs that need gradients; strided, two axes of each lie the other way round, as those of heads do."""
    made = []
    for shape in shapes:
        flip = strided and len(shape) > 2
        x = torch.randn(shape).transpose(1, -2).contiguous().transpose(1, -2) if flip else torch.randn(shape)
        made.append(x.to(dtype).requires_grad_())
    return made


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name: str, strided: bool) -> None:
    """In fp32 to 1e-5 of the largest, whichever way inputs and gradient lie in memory."""
    ours, plain, shapes = CASES[name]
    inputs = leaves(shapes, torch.float32, strided=strided)
    found, wanted = ours(*inputs), plain(*inputs)
    assert_near(found, wanted, 2e-6)
    grad = torch.randn_like(wanted)
    if strided:
        grad = grad.transpose(1, -2).contiguous().transpose(1, -2)
    for one, other in zip(*(torch.autograd.grad(each, inputs, grad) for each in (found, wanted)), strict=True):
        assert_near(one, other, 5e-6)


@pytest.mark.parametrize("name", CASES)
def test_bf16_is_within_its_rounding(name: str) -> None:
    """Type kept; values and gradients off the fp32 formula's by no more than a few of bf16's last places."""
    ours, plain, shapes = CASES[name]
    inputs = leaves(shapes, torch.bfloat16, strided=True)
    exact = [each.detach().float().requires_grad_() for each in inputs]
    found, wanted = ours(*inputs), plain(*exact)
    assert found.dtype == torch.bfloat16
    assert_near(found, wanted, 2e-2)
    for one, other in zip(
        torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(wanted.sum(), exact), strict=True
    ):
        assert one.dtype == torch.bfloat16
        assert float((one.float() - other).norm() / (other.norm() + 1)) < 2e-2


@pytest.mark.parametrize(
    ("name", "trained"), [(name, place) for name, case in CASES.items() for place in range(len(case[2]))]
)
def test_what_is_frozen_gets_no_gradient(name: str, trained: int) -> None:
    """One input alone is trained: its gradient is as when all are."""
    ours, plain, shapes = CASES[name]
    inputs = leaves(shapes, torch.float32, strided=False)
    wanted = torch.autograd.grad(plain(*inputs).square().sum(), inputs[trained])[0]
    for index, each in enumerate(inputs):
        each.requires_grad_(index == trained)
    ours(*inputs).square().sum().backward()
    assert_near(inputs[trained].grad, wanted, 1e-5)
    assert [each.grad is None for each in inputs] == [index != trained for index in range(len(inputs))]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CASES)
def test_without_gradients_values_are_the_same(name: str, mode: Any) -> None:
    """To the bit, so that an evaluation measures what is trained."""
    ours, _, shapes = CASES[name]
    inputs = leaves(shapes, torch.bfloat16, strided=True)
    with mode():
        found = ours(*inputs)
    assert not found.requires_grad
    assert torch.equal(found, ours(*inputs))


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("documents", [None, 1, 3])
def test_attention_is_that_of_the_formula(tokens: int, documents: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Causal and with documents apart, alike in all sequences or not, a few sequences at a time and a part of one."""
    monkeypatch.setattr("llmx.nn.attention.DENSE_SCORES", 2 * 4 * 128 * 200)
    shapes = [(3, 4, tokens, 8), (3, 2, tokens, 8), (3, 2, tokens, 8)]
    inputs = leaves(shapes, torch.float32, strided=False)
    mask = None
    if documents is not None:
        mask = attention_mask(torch.randint(9, (documents, tokens)).sort()[0], tokens, 0, torch.device("cpu"))
    found, wanted = attend(*inputs, mask), plain_attention(*inputs, mask)
    assert_near(found, wanted, 2e-6)
    grad = torch.randn_like(wanted)
    for one, other in zip(*(torch.autograd.grad(each, inputs, grad) for each in (found, wanted)), strict=True):
        assert_near(one, other, 5e-6)


@pytest.mark.parametrize("selective", [False, True])
def test_a_block_computed_again_is_the_same_to_the_bit(selective: bool) -> None:
    """Output and every gradient, in the products of autocast, with activations kept and made again."""
    block = Block(Attention(32, 4, 2, 8, qk_norm_eps=1e-6), SwiGLU(32, 48), 32, 1e-6)
    x = torch.randn(2, 200, 32)
    found = []
    for forward in (block.forward, Recomputed(block.forward, selective=selective)):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = forward(leaf, tables(200, 8), None, None, 0)
        found.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_little_is_kept_for_the_backward(name: str) -> None:
    """Inputs, and one number a row or a table: no second copy, and no probabilities."""
    ours, _, shapes = CASES[name]
    kept: dict[int, int] = {}

    def note(each: Tensor) -> Tensor:
        kept[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        return each

    inputs = leaves(shapes, torch.bfloat16, strided=False)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda each: each):
        y = ours(*inputs)
    assert y.requires_grad
    rows = inputs[0].numel() // inputs[0].shape[-1]
    assert 0 < sum(kept.values()) <= sum(each.nbytes for each in inputs) + rows * 4


def test_the_meta_device_tells_sizes() -> None:
    """A block runs there forward and backward, as a dry run does."""
    with torch.device("meta"):
        block = Block(Attention(32, 4, 2, 8, qk_norm_eps=1e-6), SwiGLU(32, 48), 32, 1e-6)
        x = torch.empty(2, 20, 32, requires_grad=True)
        block(x, (torch.empty(1, 1, 20, 4), torch.empty(1, 1, 20, 4)), None, None, 0).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_silu_is_torchs() -> None:
    """The formula that the others are compared with is the usual one."""
    x = torch.randn(50)
    torch.testing.assert_close(plain_gated(x, torch.ones(50)), F.silu(x))


def assert_near(found: Tensor | None, wanted: Tensor, share: float) -> None:
    """Compare with a share of the largest number wanted."""
    assert found is not None
    assert float((found.float() - wanted).abs().max().detach()) <= share * float(wanted.abs().max().detach())
