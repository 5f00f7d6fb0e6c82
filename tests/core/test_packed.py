"""Packed weights: the products they stand for, rows that do not alter each other, and the memory they take."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx.errors import RecipeError
from llmx.nn import Adapted, Attention, Block, Decoder, KVCache, RMSNorm, SwiGLU, attend, rotary_tables, rotate
from llmx.nn import packed as packing
from llmx.nn import packed_formats as formats
from llmx.nn.huge_pages import use_huge_pages
from llmx.nn.packed import pack, packed_bytes
from llmx.nn.packed_formats import Int4Linear, Int8Linear, PackedLinear, PlainLinear
from llmx.nn.rotary import whole_tables

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, HIDDEN, IDS = 128, 4, 2, 32, 256, 256
KINDS = (None, "bf16", "int8", "int4")


def decoder(*, tied: bool = True, bias: bool = False, eps: float | None = 1e-6) -> Decoder:
    def block() -> Block:
        attention = Attention(WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, qkv_bias=bias, qk_norm_eps=eps)
        return Block(attention, SwiGLU(WIDTH, HIDDEN), WIDTH, 1e-6)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Decoder(
            vocab_size=IDS, width=WIDTH, context_length=128, blocks=[block(), block()], eps=1e-6, theta=1e4, tied=tied
        )
        model.initialise(0.05)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


@pytest.fixture(scope="session")
def text() -> Tensor:
    """English, a byte an id, in rows of 65."""
    import pydoc_data.topics

    data = "\n".join(topic for topic in pydoc_data.topics.topics.values() if topic).encode()[: 1500 * 65]
    return torch.tensor(list(data)).view(-1, 65)


@pytest.fixture(scope="session")
def trained(text: Tensor) -> Decoder:
    """A model that has learnt a little of the text; its perplexity is about 10, of 256 at first."""
    model = decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(90):
        rows = text[16 * step : 16 * step + 16]
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def packed(model: nn.Module, weights: str | None) -> nn.Module:
    model = copy.deepcopy(model)
    pack(model, weights)  # type: ignore[arg-type]
    return model


def logits_of(model: nn.Module, rows: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(row[None]) for row in rows]).float()


def perplexity(model: nn.Module, rows: Tensor) -> float:
    logits = logits_of(model, rows[:, :-1])
    return math.exp(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item())


def dequantised(weight: Tensor, weights: str) -> Tensor:
    """Return a weight after the plain formula: int8 by the row's largest value, int4 from least to most of 32."""
    w = weight.detach().double().numpy()
    if weights == "int8":
        scale = np.abs(w).max(1, keepdims=True) / 127
        return torch.tensor(np.rint(w / scale) * scale, dtype=torch.float32)
    groups = w.reshape(len(w), -1, 32)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = (high - low) / 15
    return torch.tensor((np.rint((groups - low) / scale) * scale + low).reshape(w.shape), dtype=torch.float32)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_quantised_model_says_what_its_dequantised_weights_say(trained: Decoder, text: Tensor, weights: str) -> None:
    """The text is no less likely than by a model whose weights went through the plain formula, in fp32; logits point
    the same way."""
    reference = copy.deepcopy(trained)
    head = nn.Linear(WIDTH, IDS, bias=False)
    head.weight = nn.Parameter(reference.model.embed_tokens.weight.detach().clone())
    reference.lm_head = head
    for module in reference.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = dequantised(module.weight, weights)
    rows, ours = text[1440:1472], packed(trained, weights)
    full, theirs, found = perplexity(trained, rows), perplexity(reference, rows), perplexity(ours, rows)
    print(f"perplexity {weights}: fp32 {full:.3f}, dequantised in fp32 {theirs:.3f}, packed {found:.3f}")  # noqa: T201
    assert found < theirs * 1.005
    assert full < 20
    assert found < full * (1.005 if weights == "int8" else 1.05)
    cosine = F.cosine_similarity(logits_of(ours, rows).flatten(0, 1), logits_of(trained, rows).flatten(0, 1), dim=-1)
    assert cosine.mean() > (0.9995 if weights == "int8" else 0.99)


@pytest.mark.parametrize(("weights", "least"), [("bf16", 0.97), ("int8", 0.97), ("int4", 0.85)])
def test_the_likeliest_token_stays(trained: Decoder, text: Tensor, weights: str, least: float) -> None:
    """Of 2,048 positions, packed weights choose another token than fp32 in few."""
    rows = text[1440:1472, :-1]
    same = logits_of(packed(trained, weights), rows).argmax(-1) == logits_of(trained, rows).argmax(-1)
    print(f"same likeliest token, {weights}: {same.float().mean():.4f}")  # noqa: T201
    assert same.float().mean() > least


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bias", "eps"), [(False, 1e-6), (True, None)])
def test_fused_layers_compute_what_they_took_the_place_of(
    text: Tensor, tied: bool, bias: bool, eps: float | None
) -> None:
    """In fp32, with and without a cache, the logits are those of the model before."""
    model = decoder(tied=tied, bias=bias, eps=eps)
    ours = packed(model, None)
    assert not any(isinstance(each, nn.Linear) for each in ours.modules())
    assert not any(name.endswith((".q_proj", ".k_norm", ".up_proj", "lm_head")) for name, _ in ours.named_modules())
    want = logits_of(model, text[:2, :48])
    torch.testing.assert_close(logits_of(ours, text[:2, :48]), want, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        cache = ours.new_cache(1, 48)
        parts = [ours(text[:1, at : at + step], cache=cache) for at, step in ((0, 30), (30, 17), (47, 1))]
    torch.testing.assert_close(torch.cat(parts, 1), want[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", KINDS)
def test_a_row_is_the_same_to_the_bit_in_any_batch(text: Tensor, weights: str | None) -> None:
    """Sequences of other lengths beside one, at other places, leave its next logits as they are alone."""
    model = packed(decoder(), weights)
    lengths = (3, 40, 17, 64, 9, 33, 50)

    def filled(index: int) -> KVCache:
        cache = model.new_cache(1, 96)
        model.hidden(text[index : index + 1, : lengths[index]], cache=cache)
        return cache

    def step(rows: list[int]) -> Tensor:
        caches = [filled(index) for index in rows]
        ids, at = torch.tensor(rows)[:, None] + 65, torch.tensor([lengths[index] for index in rows])[:, None]
        hidden = model.hidden(ids, positions_BT=at, cache=KVCache.rows(caches) if len(rows) > 1 else caches[0])
        return model.head(hidden)[:, -1]

    with torch.inference_mode():
        alone = torch.cat([step([index]) for index in range(len(lengths))])
        for rows in ([0, 1], [5, 2, 0], [6, 5, 4, 3, 2, 1, 0]):
            assert torch.equal(step(rows), alone[rows])


class Leaking(PlainLinear):
    """A product in which rows see each other."""

    def product(self, x: Tensor) -> Tensor:
        y = super().product(x)
        return y if len(x) == 1 else y + 1e-3 * x.mean()


def test_rows_go_one_by_one_where_a_product_lets_them_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proved is looked at: a product that mixes rows is found, and each row computed by itself."""
    monkeypatch.setattr(packing, "PlainLinear", Leaking)
    model = nn.Sequential(nn.Linear(64, 48))
    pack(model)
    layer, x = model[0], torch.randn(5, 1, 64)
    assert isinstance(layer, Leaking)
    assert not layer.rows_alone
    assert torch.equal(layer(x), torch.cat([layer(row[None]) for row in x]))
    assert not torch.equal(layer(x), layer.product(x))


def test_a_layer_that_is_laid_out_otherwise_than_thought_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of other weights than those given is an error that names the layer and its sizes."""
    right = formats._nibbles
    monkeypatch.setattr(formats, "_nibbles", lambda held, inputs: right(held, inputs).flip(-1))
    monkeypatch.setattr(formats, "_blocks_are_known", lambda: True)
    with pytest.raises(RecipeError, match=r"Int4Linear of 128 x 64 computes wrongly on cpu"):
        pack(nn.Sequential(nn.Linear(64, 128)), "int4")


class Wrapped(Adapted):
    """What an adapter makes of a linear layer."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.low = nn.Parameter(torch.full((base_layer.in_features, 1), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + (x @ self.low)


def test_a_wrapped_layer_keeps_its_wrapper(text: Tensor) -> None:
    """It and its neighbours are not fused; its base is packed, and the logits are those of before."""
    model = decoder()
    attention = model.blocks()[1].self_attn
    attention.k_proj = Wrapped(attention.k_proj)
    want = logits_of(model, text[:1, :20])
    pack(model)
    kept = model.blocks()[1].self_attn
    assert isinstance(kept.k_proj, Wrapped)
    assert isinstance(kept.k_proj.base_layer, PackedLinear)
    assert isinstance(kept.q_proj, PackedLinear)
    assert kept.qkv_proj is None
    assert model.blocks()[0].self_attn.qkv_proj is not None
    torch.testing.assert_close(logits_of(model, text[:1, :20]), want, rtol=1e-4, atol=1e-4)


def test_old_weights_are_released_and_bytes_are_counted() -> None:
    """Nothing holds what was packed; int8 takes a byte a weight and 12 an output, int4 half a byte and 4 for 32."""
    for weights in ("int8", "int4"):
        model = decoder(tied=False)
        linears = [each for each in model.modules() if isinstance(each, nn.Linear)]
        count, outputs = sum(each.weight.numel() for each in linears), sum(each.out_features for each in linears)
        old = [weakref.ref(each.weight.untyped_storage()) for each in linears]
        del linears
        pack(model, weights)  # type: ignore[arg-type]
        gc.collect()
        assert len(old) == 15
        assert not any(each() is not None for each in old)
        want = count + 12 * outputs if weights == "int8" else count // 2 + count // 32 * 4
        assert packed_bytes(model) == pytest.approx(want, rel=0.02)


def weight_of(layer: PackedLinear) -> Tensor:
    """Return the weight a layer multiplies with, a column at a time."""
    eye = torch.eye(layer.in_features, dtype=torch.bfloat16)
    return torch.cat([layer.product(row[None]) for row in eye]).float().T


def test_int4_is_at_least_as_exact_as_least_to_most() -> None:
    """Fitting scales anew lowers the error of weights drawn from a bell curve to 0.95 of the plain formula's; and for
    many rows the weight is the same as for few."""
    weight = torch.randn(200, 256, generator=torch.Generator().manual_seed(3)) * 0.05
    layer = Int4Linear(weight, None)
    found, plain = (each - weight for each in (weight_of(layer), dequantised(weight, "int4")))
    print(f"int4 error over least-to-most's: {found.norm() / plain.norm():.3f}")  # noqa: T201
    assert found.norm() < 0.95 * plain.norm()
    many = layer.product(torch.eye(256, dtype=torch.bfloat16)).float().T
    torch.testing.assert_close(many, weight_of(layer), rtol=2**-7, atol=2e-3)


def test_int8_brings_each_row_to_its_own_largest_value() -> None:
    """A row a million times another keeps its exactness and its neighbour's; a row of 0 gives the bias."""
    draw = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(96, 160, generator=draw), torch.randn(96, generator=draw)
    x = torch.randn(3, 160, generator=draw)
    x[1] *= 1e6
    x[2] = 0
    y = Int8Linear(weight, bias).product(x) - bias
    assert torch.equal(y[2], torch.zeros(96))
    for row in (0, 1):
        want = weight @ x[row]
        assert (y[row] - want).norm() < 0.015 * want.norm()


def test_a_layer_no_group_fits_is_held_in_int8() -> None:
    """An int4 model may have layers whose input features are not a multiple of 32."""
    model = nn.Sequential(nn.Linear(64, 40), nn.Linear(40, 64))
    pack(model, "int4")
    assert [type(each) for each in model] == [Int4Linear, Int8Linear]


def test_what_cannot_be_is_refused() -> None:
    """A type that is none, and a device without such products, are named."""
    with pytest.raises(RecipeError, match=r"weights: 'int3': no such type; there are: bf16, int8, int4"):
        pack(decoder(), "int3")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"weights: 'int8' is for cpu and cuda, not for meta"):
        pack(decoder(), "int8", torch.device("meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("weights", KINDS)
def test_packed_weights_on_cuda(trained: Decoder, text: Tensor, weights: str | None) -> None:
    """The same model on CUDA says nearly the same."""
    model = copy.deepcopy(trained)
    pack(model, weights, torch.device("cuda"))  # type: ignore[arg-type]
    found, want = logits_of(model, text[1440:1448, :-1].cuda()).cpu(), logits_of(trained, text[1440:1448, :-1])
    assert F.cosine_similarity(found.flatten(0, 1), want.flatten(0, 1), dim=-1).mean() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_for_inference_compute_the_plain_formulas(dtype: torch.dtype) -> None:
    """Rotation by whole tables is that by halves to the bit; norm and attention of one position are their formulas."""
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(2, 6, 5, 32, generator=draw).to(dtype)
    tables = rotary_tables(torch.arange(7, 12)[None], 32, 1e4)
    assert torch.equal(rotate(x, whole_tables(tables, dtype)), rotate(x, tables))
    norm = RMSNorm(32, 1e-6).to(dtype)
    nn.init.normal_(norm.weight)
    with torch.no_grad():
        want = F.rms_norm(x.double(), (32,), norm.weight.double(), 1e-6)
        torch.testing.assert_close(norm(x).double(), want, rtol=2**-6 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
        q, (k, v) = x[:, :, :1], (torch.randn(2, 2, 3, 9, 32, generator=draw).to(dtype))[:, :, :, :, :]
        wide = [each.repeat_interleave(2, 1).double() for each in (k, v)]
        want = (q.double() @ wide[0].mT / 32**0.5).softmax(-1) @ wide[1]
        bound = 2e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(attend(q, k, v, None).double(), want, rtol=bound, atol=bound)


def test_huge_pages_leave_memory_as_it_is() -> None:
    """Asking for huge pages changes no number; regions that nearly touch are one, and what is too small is left."""
    held = torch.arange(3_000_000)
    before = held.clone()
    assert 0 <= use_huge_pages([(held.data_ptr(), held.nbytes)]) <= held.nbytes
    assert torch.equal(held, before)
    assert use_huge_pages([(held.data_ptr() + 8, 100)]) == 0
    assert use_huge_pages([]) == 0
