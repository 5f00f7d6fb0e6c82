"""Packed bases: bitsandbytes' own numbers, gradients through them, an evaluation between two steps, and merging."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmx import RecipeError
from llmx.testing.reference import loss_sum, random_batch, reference_model
from llmx_lora import Int8Options, Nf4Options
from llmx_lora.quantise import Int8Linear, Nf4Linear

CPU = torch.device("cpu")
BF16 = torch.bfloat16


def base(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(128, 192, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_nf4_has_the_weights_of_bitsandbytes(double: bool, dtype: torch.dtype) -> None:
    """Unpacked, they are those of its own layer bit for bit, in 4.13 or 4.5 bits each, near the ones before."""
    import bitsandbytes

    layer = Nf4Linear(base(dtype), Nf4Options(double_quant=double), CPU)
    theirs = bitsandbytes.nn.Params4bit(base(dtype).weight.data, compress_statistics=double, quant_type="nf4").to("cpu")
    wanted_OI = bitsandbytes.functional.dequantize_4bit(theirs.data, theirs.quant_state)
    assert torch.equal(layer.dense(dtype), wanted_OI)
    bits = 8 * sum(each.nbytes for each in layer.buffers()) / wanted_OI.numel()
    assert bits == pytest.approx(4.127 if double else 4.5, abs=0.02)
    assert 0 < float((wanted_OI - base(dtype).weight).abs().mean()) < 0.1 * float(base().weight.abs().mean())


def test_int8_rounds_each_row_to_127_steps() -> None:
    """The error of a weight is at most half a step, a step being the largest of its row over 127."""
    weight_OI = base().weight.data
    steps_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
    layer = Int8Linear(base(), Int8Options(), CPU)
    assert layer.packed.dtype == torch.int8
    torch.testing.assert_close(layer.dense(torch.float32), (weight_OI / steps_O1).round() * steps_O1)


@pytest.mark.parametrize("layer", [Nf4Linear(base(), Nf4Options(), CPU), Int8Linear(base(), Int8Options(), CPU)])
def test_a_packed_layer_is_a_linear_layer_of_its_weight(layer: Any) -> None:
    """Output and gradient are those of the unpacked weight, and nothing is kept for the backward."""
    x, plain = torch.randn(4, 7, 128, requires_grad=True), layer.merged()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        y = layer(x)
    assert not kept
    torch.testing.assert_close(y, plain(x))
    found, wanted = (torch.autograd.grad(each.sin().sum(), x)[0] for each in (y, plain(x)))
    torch.testing.assert_close(found, wanted)


def test_the_type_of_products_can_be_said() -> None:
    """`compute` holds whatever the step's type is; the result has the step's."""
    x = torch.randn(4, 128)
    layer = Nf4Linear(base(BF16), Nf4Options(compute="fp32"), CPU)
    with torch.autocast("cpu", BF16):
        y = layer(x)
    assert y.dtype == BF16
    wanted = x @ layer.dense(torch.float32).T + layer.bias.float()
    assert torch.equal(y, wanted.to(BF16))
    assert layer.merged().weight.dtype == BF16


def gradients(model: Any, seed: int) -> dict[str, Tensor]:
    """Return the gradients of a step, with dropout drawn from a seed."""
    torch.manual_seed(seed)
    model.zero_grad()
    with torch.autocast("cpu", BF16):
        loss = loss_sum(model, random_batch(seed=seed))
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_an_evaluation_between_two_steps_changes_no_gradient(name: str, build: Any) -> None:
    """The second step's gradients are the same with it and without; bitsandbytes' 4-bit layer loses them here."""
    found = []
    for evaluated in (False, True):
        torch.manual_seed(3)
        model = build(name).apply(reference_model().to(BF16), CPU)
        model = build("lora", rank=4, dropout=0.1).apply(model, CPU).train()
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
        gradients(model, 0)
        optimizer.step()
        if evaluated:
            model.eval()
            with torch.no_grad(), torch.autocast("cpu", BF16):
                model(random_batch().ids_BT)
            with torch.inference_mode():
                model(random_batch().ids_BT[:, :1])
            model.train()
        found.append(gradients(model, 1))
    assert all(bool(each.any()) for each in found[0].values())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["nf4", "int8"])
@pytest.mark.parametrize("dora", [False, True])
def test_lora_on_a_packed_base_is_lora_on_its_weights(name: str, dora: bool, build: Any) -> None:
    """Gradients are those on a plain model of the unpacked weights, embedding and head stay plain, and merging gives
    those weights with the change."""
    packer, lora = build(name), build("lora", rank=4, dora=dora)
    packed = packer.apply(reference_model(), CPU)
    assert {type(each) for each in packed.modules() if hasattr(each, "in_features")} == {packer.layer, nn.Linear}
    plain = packer.merge(build(name).apply(reference_model(), CPU))
    found = []
    for model in (packed, plain):
        torch.manual_seed(8)
        lora.apply(model, CPU)
        for each in model.parameters():
            if each.requires_grad:
                each.data += 0.05
        loss_sum(model, random_batch()).backward()
        found.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
    assert found[0].keys() == found[1].keys()
    for key, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][key], atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        ids_BT = random_batch().ids_BT
        wanted = packed(ids_BT)
        merged = packer.merge(lora.merge(packed))
        assert {type(each) for each in merged.modules() if hasattr(each, "in_features")} == {nn.Linear}
        torch.testing.assert_close(merged(ids_BT), wanted, atol=1e-4, rtol=1e-4)


def test_a_model_shrinks_to_its_packed_size(build: Any) -> None:
    """Layers are packed one by one, on the meta device too, with the same shapes; `skip` leaves some as they are."""
    packed = build("nf4", skip=["down_proj", "*.layers.1.*"]).apply(reference_model(), CPU)
    with torch.device("meta"):
        planned = build("nf4", skip=["down_proj", "*.layers.1.*"]).apply(
            type(packed)(packed.options, vocab_size=61), CPU
        )
    sizes = [{n: (v.shape, v.dtype) for n, v in each.state_dict().items()} for each in (packed, planned)]
    assert sizes[0] == sizes[1]
    kept = {name for name, each in packed.named_modules() if type(each) is nn.Linear}
    assert {name for name in kept if ".layers.0." in name} == {"model.layers.0.mlp.down_proj"}
    assert len({name for name in kept if ".layers.1." in name}) == 7
    assert not any(each.requires_grad for each in packed.parameters())
    planned = build("lora", dora=True, dropout=0.1).apply(planned, CPU).train()
    planned(random_batch().ids_BT.to("meta")).sum().backward()  # a plan takes a step there
    assert all(each.grad.is_meta for each in planned.parameters() if each.requires_grad)


def test_the_wrong_order_and_nothing_to_pack_are_said(build: Any) -> None:
    """One plain line each."""
    with pytest.raises(RecipeError, match="name nf4 or int8 before lora"):
        build("nf4").apply(build("lora").apply(reference_model(), CPU), CPU)
    with pytest.raises(RecipeError, match=r"no linear layer is left to quantise: its patterns fit every one"):
        build("int8", skip=["*"]).apply(reference_model(), CPU)


def test_without_bitsandbytes_one_line_says_what_to_install() -> None:
    """Naming nf4 fails by name, and lora works."""
    code = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "from llmx import Registry, PluginError\n"
        "Registry().find('adapter', 'lora', 'here').component.load()\n"
        "try: Registry().find('adapter', 'nf4', 'here').component.load()\n"
        "except PluginError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install bitsandbytes" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not done.stderr
