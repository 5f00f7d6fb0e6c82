"""Losses of a linear head: equal to torch's own over whole logits, in value and gradient, and never with whole logits.

Shapes: `M` positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmx.nn import linear_cross_entropy, linear_log_probs
from llmx.nn import loss as losses
from llmx.protocols import IGNORE

M, D, V = 300, 24, 61


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven positions to a chunk, three of them in fp32 at once, so that there are many and the last is not full."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 7 * V)
    monkeypatch.setattr(losses, "BLOCK_LOGITS", 3 * V)
    monkeypatch.setattr(losses, "LEAST_ROWS", 1)


def case(ignored: float = 0.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head and labels of chance, some of which do not count; logits spread by several nats."""
    generator = torch.Generator().manual_seed(0)
    hidden_MD, weight_VD = (torch.randn(n, D, generator=generator) for n in (M, V))
    labels_M = torch.randint(V, (M,), generator=generator)
    labels_M[torch.rand(M, generator=generator) < ignored] = IGNORE
    return hidden_MD.to(dtype).requires_grad_(), (weight_VD / 2).requires_grad_(), labels_M


def plain(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor, smoothing: float, z_loss: float) -> Tensor:
    """Whole logits and torch's cross-entropy."""
    logits_MV = hidden_MD @ weight_VD.T
    squares_M = logits_MV.logsumexp(-1).square() * (labels_M != IGNORE)
    entropy = F.cross_entropy(logits_MV, labels_M, reduction="sum", ignore_index=IGNORE, label_smoothing=smoothing)
    return entropy + z_loss * squares_M.sum()


@pytest.mark.parametrize("ignored", [0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.3, 0.1)])
def test_it_is_torchs_cross_entropy(ignored: float, smoothing: float, z_loss: float) -> None:
    """With smoothed labels and the penalty on log Z, for any share of positions without a label."""
    hidden, weight, labels = case(ignored)
    found = linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing, z_loss=z_loss)
    wanted = plain(hidden, weight, labels, smoothing, z_loss)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(3 * each, [hidden, weight]) for each in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ignored", [0.0, 0.05, 0.6, 1.0])
def test_log_probs_are_those_of_log_softmax(ignored: float) -> None:
    """At each position, 0 where it has no label, and with a weight of its own for each in the gradient."""
    hidden, weight, labels = case(ignored)
    kept = labels != IGNORE
    found = linear_log_probs(hidden, weight, labels)
    wanted = F.log_softmax(hidden @ weight.T, -1).gather(1, labels.clamp(min=0)[:, None])[:, 0] * kept
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    factors = torch.randn(M, generator=torch.Generator().manual_seed(1))
    grads = [torch.autograd.grad((each * factors).sum(), [hidden, weight]) for each in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained", ["hidden", "weight", "neither", "no_grad"])
def test_what_needs_no_gradient_gets_none(trained: str) -> None:
    """A frozen head has none made, and with no gradient at all the head is applied once."""
    hidden, weight, labels = case()
    hidden.requires_grad_(trained in ("hidden", "no_grad"))
    weight.requires_grad_(trained in ("weight", "no_grad"))
    wanted = plain(hidden, weight, labels, 0, 0)
    with torch.set_grad_enabled(trained != "no_grad"), Products() as products:
        found = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(found, wanted.detach() if trained in ("neither", "no_grad") else wanted)
    assert found.requires_grad == (trained in ("hidden", "weight"))
    chunks = -(-M // 7)
    assert products.count == (2 * chunks if found.requires_grad else chunks)
    if found.requires_grad:
        of = hidden if trained == "hidden" else weight
        torch.testing.assert_close(
            *(torch.autograd.grad(each, of)[0] for each in (found, wanted)), atol=1e-4, rtol=1e-4
        )
    with Products() as products:
        log_p = linear_log_probs(hidden, weight, labels)
        if trained in ("hidden", "weight"):
            log_p.sum().backward()
            assert products.count == 3 * chunks
            assert (hidden.grad is None, weight.grad is None) == (trained != "hidden", trained != "weight")


class Products(TorchDispatchMode):
    """Counts matrix products, and the elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.mm.out) and made.numel() > 0
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
@pytest.mark.parametrize("ignored", [0.0, 0.6])
def test_logits_are_never_held_whole(function: Any, ignored: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of the vocabulary of Qwen: no tensor is larger than the head or a chunk of logits."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 2**20)
    vocab, hidden = 151_936, torch.randn(64, 8, requires_grad=True)
    weight = torch.randn(vocab, 8, requires_grad=True)
    labels = torch.arange(64) * 2000
    labels[: int(64 * ignored)] = IGNORE
    with Products() as products:
        function(hidden, weight, labels).sum().backward()
    assert products.count >= 3 * (len(labels) * (1 - ignored) // 7)
    assert vocab * 6 <= products.largest <= max(2**20, weight.numel())


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
def test_positions_without_a_label_cost_no_product(function: Any) -> None:
    """Of chats, whose prompts carry no loss, only the answers meet the vocabulary."""
    hidden, weight, labels = case(0.9)
    counted = int((labels != IGNORE).sum())
    with torch.no_grad(), Products() as products:
        function(hidden, weight, labels)
    assert products.count == -(-counted // 7) < -(-M // 7) / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
def test_mixed_precision_sums_in_fp32(function: Any, dtype: torch.dtype) -> None:
    """Products in the half type, whatever type the hidden states come in; the result in fp32, near the exact one."""
    hidden, weight, labels = case(0.3)
    exact = function(hidden, weight, labels).sum()
    exact_grads = torch.autograd.grad(exact, [hidden, weight])
    for given in (hidden, hidden.to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            found = function(given, weight, labels)
        assert found.dtype == torch.float32
        assert float(found.sum().detach()) == pytest.approx(float(exact.detach()), rel=1e-2)
        for one, other in zip(torch.autograd.grad(found.sum(), [hidden, weight]), exact_grads, strict=True):
            assert one.dtype == torch.float32
            assert float((one - other).norm() / other.norm()) < 2e-2


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
def test_the_meta_device_tells_sizes(function: Any) -> None:
    """There a dry run measures what a backward keeps."""
    hidden, weight = (torch.empty(n, D, device="meta", requires_grad=True) for n in (M, V))
    found = function(hidden, weight, torch.empty(M, dtype=torch.long, device="meta"))
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == hidden.shape
