"""Saving memory: the same numbers bit for bit, and less that is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import llmx
from llmx import RecipeError
from llmx.assembly import require_one_device
from llmx.generate.forward import device_of
from llmx.train.memory import Checkpointing, HostRows, place, recompute_blocks
from llmx.train.parallel import World

MODES: list[Checkpointing] = ["none", "block", "selective"]


class DroppingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(32, 128), nn.Linear(128, 32), nn.Dropout(0.5)

    def forward(self, x_BTD: Tensor, *, scale: float = 1.0) -> Tensor:
        out_BTD: Tensor = x_BTD + scale * self.drop(self.down(nn.functional.silu(self.up(x_BTD))))
        return out_BTD


class Dropping(nn.Module):
    """Blocks with dropout, called with a keyword as some families' are."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(DroppingBlock() for _ in range(4))
        self.head = self.embed if tied else nn.Linear(32, 50, bias=False)

    def blocks(self) -> nn.ModuleList:
        return self.layers

    def head_weight(self) -> Tensor:
        return self.head.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTD = self.embed(ids_BT)
        for block in self.layers:
            x_BTD = block(x_BTD, scale=0.5)
        return x_BTD @ self.head_weight().T


def tiny() -> Any:
    from llmx_tinyllm import TinyLLMOptions
    from llmx_tinyllm.model import TinyLLM

    return TinyLLM(TinyLLMOptions(preset="nano", layers=4), vocab_size=50)


class Products(TorchDispatchMode):
    """Counts the matrix products that are done."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return operation(*args, **(kwargs or {}))


def step(build: Callable[[], Any], mode: Checkpointing) -> tuple[float, dict[str, Tensor], int, int]:
    """Return the loss, the gradients, the bytes kept after the forward pass, and the products of the backward pass."""
    torch.manual_seed(0)
    model = build()
    recompute_blocks(model, mode)
    ids_BT = torch.randint(50, (4, 64))
    torch.manual_seed(1)
    with torch.profiler.profile(profile_memory=True) as forward:
        loss = model(ids_BT).float().logsumexp(-1).mean()
    with Products() as backward:
        loss.backward()
    kept = sum(each.self_cpu_memory_usage for each in forward.key_averages())
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}, kept, backward.count


@pytest.mark.parametrize("build", [tiny, Dropping])
def test_a_recomputed_block_gives_the_same_numbers_from_less(build: Callable[[], Any]) -> None:
    """Loss and gradients are equal bit for bit, with dropout too; less is kept, and selective repeats no product."""
    losses, gradients, kept, products = zip(*(step(build, mode) for mode in MODES), strict=True)
    assert losses[0] == losses[1] == losses[2]
    for other in gradients[1:]:
        assert all(torch.equal(gradients[0][name], other[name]) for name in gradients[0])
    assert kept[1] < kept[2] < kept[0]
    assert kept[1] < 0.5 * kept[0]
    assert products[2] == products[0] < products[1]


def test_nothing_is_recomputed_without_gradients() -> None:
    """Decoding from a cache fills it once, and gives the logits of a model that recomputes nothing."""
    torch.manual_seed(0)
    plain = tiny().eval()
    model = copy.deepcopy(plain)
    recompute_blocks(model, "block")
    ids_BT = torch.randint(50, (2, 9))
    with torch.no_grad():
        cache = model.new_cache(2, 9)
        logits = torch.cat([model(ids_BT[:, :5], cache=cache), model(ids_BT[:, 5:], cache=cache)], 1)
        assert cache.length == 9
        torch.testing.assert_close(logits, plain(ids_BT), atol=1e-5, rtol=1e-5)


def test_a_copy_of_a_model_recomputes_its_own_blocks() -> None:
    """Merging adapters copies the model: the copy's loss must come from the copy's weights."""
    torch.manual_seed(0)
    model = Dropping().eval()
    recompute_blocks(model, "block")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.layers.parameters():
            parameter.zero_()
    ids_BT = torch.randint(50, (2, 9))
    other(ids_BT).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(model(ids_BT), other(ids_BT))
    assert list(model.state_dict()) == list(Dropping().state_dict())


def test_a_run_that_recomputes_is_the_same_run(small: list[str], tmp_path: Path) -> None:
    """The recipe's option reaches the blocks, and the run ends with the same weights bit for bit."""
    ends = []
    for mode in ("none", "selective"):
        given = [*small, "train.steps=3", f"train.checkpointing={mode}"]
        run = llmx.run(overrides=given, tokenizer="char", logger=["jsonl"], out=tmp_path / mode)
        ends.append(run.module.state_dict())
        assert all(("forward" in vars(block)) == (mode != "none") for block in run.model.blocks())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_where_a_model_with_a_host_embedding_computes() -> None:
    """Ids and caches go to its blocks, rows come to where the ids are, and ranks cannot sum gradients of both."""
    model = Dropping()
    model.layers.to("meta")
    assert device_of(model).type == "meta"  # type: ignore[arg-type]
    model.embed.__dict__["forward"] = HostRows(model.embed.forward)
    with FakeTensorMode(), torch.no_grad():  # autograd would ask for the device
        fake = nn.Embedding(50, 32)
        rows = HostRows(fake.forward)(torch.zeros(1, 3, dtype=torch.long, device="cuda"))
        assert (fake.weight.device.type, rows.device.type) == ("cpu", "cuda")
    copied = copy.deepcopy(model.embed)
    copied.weight.data.zero_()
    assert not copied(torch.ones(1, 1, dtype=torch.long)).any(), "a copy looks its own rows up"
    cuda, two = torch.device("cuda"), World(0, 2)
    with pytest.raises(RecipeError, match=r"^train\.host_embedding: its gradients .* over 2 ranks: leave it out"):
        require_one_device(model, cuda, two)  # type: ignore[arg-type]
    require_one_device(model, cuda, World())  # type: ignore[arg-type]
    model.requires_grad_(False)
    require_one_device(model, cuda, two)  # type: ignore[arg-type]


def test_an_embedding_stays_on_the_host() -> None:
    """Its rows are looked up there and sent, all else is moved, and gradients come back; a tied one is refused."""
    model: Any = Dropping()
    place(model, torch.device("meta"), host_embedding=False)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    with pytest.raises(RecipeError, match=r"train\.host_embedding: the model's head is its embedding"):
        place(Dropping(tied=True), torch.device("cuda"), host_embedding=True)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    torch.manual_seed(0)
    plain, model = Dropping().eval(), Dropping().eval()
    model.load_state_dict(plain.state_dict())
    place(model, torch.device("cuda"), host_embedding=True)
    assert {name for name, p in model.named_parameters() if p.device.type == "cpu"} == {"embed.weight"}
    ids_BT = torch.randint(50, (2, 9))
    plain(ids_BT).logsumexp(-1).sum().backward()
    model(ids_BT.cuda()).logsumexp(-1).sum().backward()
    torch.testing.assert_close(model.embed.weight.grad, plain.embed.weight.grad, atol=1e-4, rtol=1e-4)
