"""LoRA's arithmetic: the fused product, its memory, dropout, merging, and what may be named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from llmx import RecipeError, Registry
from llmx.nn.adapted import without_adapters
from llmx.testing.reference import loss_sum, random_batch, reference_model
from llmx_lora.linear import LoraLinear
from llmx_lora.product import draw_places, dropped

CPU = torch.device("cpu")


def layer(inputs: int = 24, outputs: int = 40, *, bias: bool = True, dropout: float = 0.0) -> LoraLinear:
    """Return an adapted layer in fp64, whose change is not 0."""
    torch.manual_seed(2)
    base = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    found = LoraLinear(base, 4, 1.5, dropout, dora=False)
    found.draw("gaussian")
    nn.init.normal_(found.lora_B.weight)
    return found.double()


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_product_is_the_papers(bias: bool) -> None:
    """Output and gradients are those of plain operations that torch differentiates."""
    ours, x = layer(bias=bias), torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    grads, results = [], []
    for plainly in (False, True):
        if plainly:
            change = F.linear(F.linear(x, ours.lora_A.weight), ours.lora_B.weight)
            y = F.linear(x, ours.base_layer.weight, ours.base_layer.bias) + 1.5 * change
        else:
            y = ours(x)
        inputs = (x, ours.lora_A.weight, ours.lora_B.weight)
        grads.append(torch.autograd.grad((y * torch.arange(40)).sin().sum(), inputs))
        results.append(y)
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-12)
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dropout", [0.05, 0.5])
def test_dropout_drops_its_share_and_is_drawn_alike_in_the_backward(dropout: float) -> None:
    """The share of zeros is right, the mean stays, and gradients are those of the forward that was drawn."""
    ones = torch.ones(1000, 1000)
    share = float((dropped(ones, draw_places(ones, dropout)) == 0).float().mean())
    assert abs(share - dropout) < 4 * math.sqrt(dropout * (1 - dropout) / 1e6)
    ours, x = layer(dropout=dropout).train(), torch.randn(3, 24, dtype=torch.float64, requires_grad=True)

    def drawn(x: Tensor, a: Tensor, b: Tensor) -> Any:
        torch.manual_seed(9)
        return torch.func.functional_call(ours, {"lora_A.weight": a, "lora_B.weight": b}, (x,))

    assert torch.autograd.gradcheck(drawn, (x, ours.lora_A.weight, ours.lora_B.weight))
    mean = torch.stack([ours(x.detach()) for _ in range(1000)]).mean(0)
    ours.eval()
    torch.testing.assert_close(mean, ours(x.detach()), atol=0.3, rtol=0.1)
    assert torch.equal(ours(x), ours(x))


def test_a_begins_as_in_peft() -> None:
    """Uniform over +-1 / sqrt(inputs), or normal with the deviation 1 / rank; B begins with 0."""
    ours = LoraLinear(nn.Linear(400, 10), 50, 1.0, 0.0, dora=False)
    assert not ours.lora_B.weight.any()
    ours.draw("default")
    size = ours.lora_A.weight.detach().abs()
    assert float(size.max()) == pytest.approx(0.05, rel=0.01)
    assert float(size.mean()) == pytest.approx(0.025, rel=0.03)
    ours.draw("gaussian")
    assert float(ours.lora_A.weight.detach().std()) == pytest.approx(0.02, rel=0.03)


def test_one_seed_drops_alike() -> None:
    """What is dropped comes from torch's global generator: a resumed run draws what the other did."""
    ours, x = layer(dropout=0.3).train(), torch.randn(3, 24, dtype=torch.float64)
    torch.manual_seed(4)
    first, second = ours(x), ours(x)
    torch.manual_seed(4)
    assert torch.equal(ours(x), first)
    assert not torch.equal(first, second)


def test_it_keeps_its_input_and_little_else_for_the_backward() -> None:
    """Layers with one input share it; there is no copy in another type, and no mask as large as it."""
    torch.manual_seed(0)
    layers = [LoraLinear(nn.Linear(256, 256).bfloat16().requires_grad_(False), 8, 2.0, 0.05, False) for _ in range(3)]
    x = torch.randn(512, 256, dtype=torch.bfloat16, requires_grad=True)
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value), torch.autocast("cpu", torch.bfloat16):
        outputs = [each(x) for each in layers]
    assert all(y.dtype == torch.bfloat16 for y in outputs)
    parameters = sum(p.nbytes for each in layers for p in each.parameters() if p.requires_grad)
    low = 3 * 512 * 8 * 2
    places = 3 * 4 * 0.0513 * x.numel()
    assert sum(kept.values()) <= x.nbytes + parameters + low + places


def contexts() -> Any:
    """Keep matrix products, as llmx does where `train.checkpointing` is "selective"."""
    aten = torch.ops.aten
    return create_selective_checkpoint_contexts([aten.mm.default, aten.addmm.default, aten.bmm.default])


def test_checkpointing_gives_the_same_gradients() -> None:
    """A block that is computed again in the backward drops what it dropped, and has equal gradients."""
    ours = nn.Sequential(layer(dropout=0.2), nn.SiLU(), layer(40, 24, dropout=0.2)).train()
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    found = []
    for given in (None, {}, {"context_fn": contexts}):
        torch.manual_seed(6)
        y = ours(x) if given is None else checkpoint(ours, x, use_reentrant=False, **given)
        found.append(torch.autograd.grad(y.sum(), [x, *(p for p in ours.parameters() if p.requires_grad)]))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_bf16_products_have_fp32_masters(build: Any) -> None:
    """On a base in bf16 what is trained is in fp32, so are its gradients, and both are near those of fp32."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = build("lora", rank=4).apply(reference_model().to(dtype), CPU)
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        for name, each in trained.items():
            if "lora_B" in name:
                nn.init.normal_(each, std=0.1, generator=torch.Generator().manual_seed(1))
        assert {each.dtype for each in trained.values()} == {torch.float32}
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            loss = loss_sum(model, random_batch())
        loss.backward()
        assert {each.grad.dtype for each in trained.values()} == {torch.float32}
        found.append(torch.cat([each.grad.flatten() for each in trained.values()]))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.05


@pytest.mark.parametrize("dora", [False, True])
def test_folding_is_reversible(dora: bool, build: Any) -> None:
    """Folded, the model computes as merged and as before; unfolded, the base has its weights again to rounding."""
    adapter = build("lora", rank=4, dora=dora)
    model = adapter.apply(reference_model(), CPU).eval()
    for name, each in model.named_parameters():
        if each.requires_grad:
            each.data += 0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(len(name)))
    ids_BT = random_batch().ids_BT
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(ids_BT)
        adapter.fold(model)
        torch.testing.assert_close(model(ids_BT), wanted, atol=1e-4, rtol=1e-4)
        name = "model.layers.0.mlp.up_proj.base_layer.weight"
        assert not torch.allclose(model.state_dict()[name], before[name], atol=1e-3)
        adapter.unfold(model)
        torch.testing.assert_close(model(ids_BT), wanted, atol=1e-5, rtol=1e-5)
    for name, each in model.state_dict().items():
        torch.testing.assert_close(each, before[name], atol=1e-6, rtol=1e-5)


def test_the_base_can_be_had_from_within(build: Any) -> None:
    """Without adapters, the logits are the base's, where embedding and head were trained too."""
    model = build("lora", rank=4, dora=True, modules_to_save=["embed_tokens", "lm_head"]).apply(reference_model(), CPU)
    for each in model.parameters():
        if each.requires_grad:
            each.data += 0.1
    ids_BT = random_batch().ids_BT
    with torch.no_grad():
        wanted, changed = reference_model()(ids_BT), model(ids_BT)
        with without_adapters(model):
            torch.testing.assert_close(model(ids_BT), wanted, atol=1e-6, rtol=1e-6)
        assert torch.equal(model(ids_BT), changed)
    assert float((changed - wanted).abs().max()) > 0.1


def names(model: Any) -> set[str]:
    """Return the last parts of the names of adapted layers."""
    return {name.rpartition(".")[2] for name, each in model.named_modules() if isinstance(each, LoraLinear)}


EVERY = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
CHOICES: list[tuple[list[str] | None, set[str]]] = [
    (None, EVERY),
    (["hidden"], EVERY),
    (["head"], {"lm_head"}),
    (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
    (["mlp.*", "head"], {"gate_proj", "up_proj", "down_proj", "lm_head"}),
]


@pytest.mark.parametrize(("targets", "wanted"), CHOICES)
def test_targets_are_roles_and_patterns(targets: list[str] | None, wanted: set[str], build: Any) -> None:
    """Each names the layers it says, and all else is frozen."""
    given = {} if targets is None else {"targets": targets}
    model = build("lora", **given).apply(reference_model(), CPU)
    assert names(model) == wanted
    assert all("lora_" in name for name, each in model.named_parameters() if each.requires_grad)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"targets": ["query"]}, r"adapter\.lora\.targets: 'query': matches no layer; there are down_proj, .*q_proj"),
    ({"targets": ["embed_tokens"]}, r"model\.embed_tokens is no linear layer \(modules_to_save trains it whole\)"),
    ({"modules_to_save": ["wte"]}, r"adapter\.lora\.modules_to_save: 'wte': matches no module .*embed_tokens"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_matches_nothing_is_said(options: dict[str, Any], said: str, build: Any) -> None:
    """One line that lists what there is."""
    with pytest.raises(RecipeError, match=said) as caught:
        build("lora", **options).apply(reference_model(), CPU)
    assert "\n" not in str(caught.value)


def test_layers_that_are_no_linear_ones_are_named(build: Any) -> None:
    """GPT-2 multiplies with Conv1D: neither adapter takes it, and both say that."""
    from llmx_transformers import TransformersOptions

    options = TransformersOptions(model_type="gpt2", fields={"n_layer": 1, "n_embd": 16, "n_head": 2})
    component = Registry().find("model", "transformers", "test").component
    for name, given in (("lora", {}), ("nf4", {})):
        with pytest.raises(RecipeError, match=r"the layers of \w+'s blocks are Conv1D, not Linear, and are not"):
            build(name, **given).apply(component.load()(options, vocab_size=40), CPU)
    with pytest.raises(RecipeError, match=r"h\.0\.attn\.c_attn is a Conv1D, no linear layer"):
        build("lora", targets=["c_attn"]).apply(component.load()(options, vocab_size=40), CPU)


def test_twice_is_refused(build: Any) -> None:
    """A second LoRA would have the names of the first."""
    model = build("lora").apply(reference_model(), CPU)
    with pytest.raises(RecipeError, match="has one already: name `lora` once"):
        build("lora").apply(model, CPU)


@pytest.mark.parametrize(
    ("option", "value"), [("rank", 0), ("alpha", 0.0), ("dropout", 1.0), ("init", "pissa"), ("targets", [])]
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    """The message names the option."""
    from llmx.options import structure
    from llmx_lora import LoraOptions

    _, faults = structure(LoraOptions, {option: value}, "adapter.lora")
    assert [fault.path for fault in faults] == [f"adapter.lora.{option}"]
