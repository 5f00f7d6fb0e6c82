"""The bridge: models of transformers keep our contract, with transformers' own forward as the reference.

Shapes: `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import llmx
from llmx import CheckpointError, Component, PluginError, RecipeError, Registry, pretrained
from llmx.plugins import Plugin
from llmx.protocols import IGNORE
from llmx.testing import check_cached_decoding
from llmx.testing.reference import batch_of, random_ids, shaken
from llmx_transformers import TransformersOptions
from llmx_transformers.build import build

VOCAB, LENGTH = 97, 24
NO_DROPOUT = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": {**SHAPE, "sliding_window": 5},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **NO_DROPOUT},
    "phi3": {**SHAPE, "sliding_window": 6},
    "gemma": {**SHAPE, "head_dim": 8},
    "gemma3_text": {
        **SHAPE,
        "head_dim": 8,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen2": SHAPE,
}
"""A rotary one, sliding windows, learned positions, one projection for all, scaled and tied embeddings, both kinds of
block in one model, and biases."""


def made(family: str, **fields: Any) -> Any:
    return build(
        TransformersOptions(model_type=family, fields={**FAMILIES.get(family, SHAPE), **fields}), vocab_size=VOCAB
    )


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Any:
    """A model that transformers made and wrote, and what the bridge reads from the folder."""
    config = CONFIG_MAPPING[request.param](
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **FAMILIES[request.param],
        vocab_size=VOCAB,
    )
    torch.manual_seed(0)
    theirs = shaken(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval())
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, pretrained.load_model(folder, registry, name="transformers")


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


@torch.no_grad()
def test_logits_and_names_are_those_of_transformers(pair: Any) -> None:
    """A folder that transformers wrote gives its logits, its names of parameters, and its buffers, bit for bit."""
    theirs, ours = pair
    ids_BT = random_ids(2, LENGTH, VOCAB)
    assert close(ours(ids_BT), theirs(input_ids=ids_BT).logits)
    names = [name for name, _ in theirs.named_parameters()]
    assert list(ours.roles()) == list(ours.state_dict()) == names
    buffers = dict(theirs.named_buffers())
    found = dict(ours.named_buffers())
    assert found.keys() == buffers.keys()
    for name, buffer in buffers.items():
        assert torch.equal(found[name], buffer), name


@pytest.mark.parametrize("training", [False, True])
def test_packed_documents_are_as_if_alone(pair: Any, training: bool) -> None:
    """Each document of a packed row has the logits that transformers gives it alone, beside padding too."""
    theirs, ours = pair
    ids_BT = random_ids(2, LENGTH, VOCAB)
    cuts = ((0, 9, 10, 22), (0, 14, 24))  # the first row ends in padding
    documents_BT = torch.full((2, LENGTH), -1, dtype=torch.int32)
    for row, ends in enumerate(cuts):
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            documents_BT[row, start:end] = number
    ours.train(training)
    with torch.set_grad_enabled(training):
        packed_BTV = ours(ids_BT, documents_BT=documents_BT).detach()
    ours.eval()
    assert packed_BTV.isfinite().all()
    with torch.no_grad():
        for row, ends in enumerate(cuts):
            for start, end in itertools.pairwise(ends):
                alone_TV = theirs(input_ids=ids_BT[row : row + 1, start:end]).logits[0]
                assert close(packed_BTV[row, start:end], alone_TV), (row, start, end)


@torch.no_grad()
def test_cached_decoding(pair: Any) -> None:
    """Prefill, a few at once, then one by one give transformers' logits; more than was asked for does not fit."""
    theirs, ours = pair
    check_cached_decoding(ours)
    ids_BT, cache = random_ids(1, LENGTH, VOCAB), ours.new_cache(1, LENGTH)
    ours(ids_BT[:, :-1], cache=cache)
    assert close(ours(ids_BT[:, -1:], cache=cache), theirs(input_ids=ids_BT).logits[:, -1:])
    assert cache.length == LENGTH
    with pytest.raises(ValueError, match="cannot hold 25"):
        ours(ids_BT[:, :1], cache=cache)


def test_gradients_through_the_fused_loss(pair: Any, registry: Registry) -> None:
    """The gradients of our fused loss are those of transformers' logits under torch's cross-entropy."""
    theirs, ours = pair
    ids_BT = random_ids(2, LENGTH + 1, VOCAB)
    labels_BT = ids_BT[:, 1:].clone()
    labels_BT[0, :5] = IGNORE
    offer = registry.find("objective", "causal-lm").component
    offer.load()(offer.options())(ours, batch_of(ids_BT[:, :-1], labels_BT)).backward()
    logits_BTV = theirs(input_ids=ids_BT[:, :-1]).logits
    F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORE, reduction="sum").backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert float((parameter.grad - other.grad).norm()) <= 1e-4 * float(other.grad.norm()), name
    for model in pair:
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", ["mistral", "gpt2", "gemma"])
def test_trained_and_exported(family: str, corpus: Path, tmp_path: Path) -> None:
    """A run by names trains it; `model/` opens in transformers with equal logits, and here, by its name."""
    fields = FAMILIES[family]
    sections = {"data.path": str(corpus), "train.steps": 5, "train.tokens_per_update": 512, "train.precision": "fp32"}
    run = llmx.run(
        overrides={
            **sections,
            "optimizer.lr": 1e-2,
            "model.model_type": family,
            "model.fields": fields,
            "generate.samples": 1,
            "generate.max_new_tokens": 4,
        },
        model="transformers",
        tokenizer="char",
        logger=["jsonl"],
        out=tmp_path / "run",
    )
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 5
    assert losses[-1] < losses[0] - 0.3
    theirs = AutoModelForCausalLM.from_pretrained(run.folder / "model")
    assert type(theirs).__name__ == json.loads((run.folder / "model" / "config.json").read_text())["architectures"][0]
    assert theirs.config.use_cache
    ours = llmx.load(run.folder).model
    ids_BT = random_ids(2, LENGTH, ours.vocab_size)
    with torch.no_grad():
        wanted_BTV = theirs(input_ids=ids_BT).logits
        assert close(ours(ids_BT), wanted_BTV)
        assert close(run.model.eval()(ids_BT), wanted_BTV)


def test_a_pretrained_folder_is_fine_tuned(corpus: Path, tmp_path: Path) -> None:
    """A folder of a family without a plugin is what `model.pretrained` names: an adapter learns on it, with blocks
    that are computed again, and the merged model opens in transformers with the logits of the run."""
    sections = {"data.path": str(corpus), "train.steps": 3, "train.tokens_per_update": 512, "train.precision": "fp32"}
    sections |= {"generate.samples": 0, "optimizer.lr": 1e-2, "data.held_out": 0.05}
    shape = {"model.model_type": "phi3", "model.fields": FAMILIES["phi3"], "tokenizer.vocab_size": 300}
    first = llmx.run(
        overrides={**sections, **shape}, model="transformers", tokenizer="bpe", logger=[], out=tmp_path / "first"
    )
    folder = first.folder / "model"
    (folder / "llmx.json").unlink()  # as if another tool had written it
    tuned = llmx.run(
        overrides={**sections, "model.pretrained": str(folder), "train.checkpointing": "block"},
        adapter=["lora"],
        logger=["jsonl"],
        out=tmp_path / "tuned",
    )
    theirs = AutoModelForCausalLM.from_pretrained(tuned.folder / "model")
    ids_BT = random_ids(2, LENGTH, 300)
    with torch.no_grad():
        tuned_BTV = tuned.model.eval()(ids_BT)
        assert close(tuned_BTV, theirs(input_ids=ids_BT).logits)
        assert not close(tuned_BTV, AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids_BT).logits)


def test_a_config_of_a_folder_is_built_anew(tmp_path: Path) -> None:
    """`config` takes a shape, with the vocabulary of the tokenizer; kernels that it names are never fetched."""
    kernels = {"_attn_implementation": "kernels-community/flash-attn", "attn_implementation": "kernels-community/x"}
    config = {**made("phi3").to_config(), **kernels, "vocab_size": 32064, "pad_token_id": 32000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build(TransformersOptions(config=tmp_path, fields={"num_hidden_layers": 3}), vocab_size=VOCAB)
    assert (len(model.blocks()), model.vocab_size, model.context_length) == (3, VOCAB, 64)
    assert model.config._attn_implementation == "sdpa"
    assert model.to_config()["architectures"] == ["Phi3ForCausalLM"]


def test_moving_to_bf16_keeps_rotary_angles() -> None:
    """Weights become bf16; angles do not, in which a position in the thousands could not be told from the next."""
    model = made("llama")
    angles = model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16)
    assert model.head_weight().dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, angles)


def test_the_first_packed_batch_draws_nothing() -> None:
    """Whether documents stay apart is measured without a trace in the global generator, so that a resumed run, which
    measures again, is the run that was never stopped."""
    model = made("gpt2", resid_pdrop=0.0).train()
    before = torch.get_rng_state()
    model(random_ids(1, 8, VOCAB), documents_BT=torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]))
    assert torch.equal(torch.get_rng_state(), before)
    assert model._keeps_apart


def test_a_family_that_lets_documents_see_each_other() -> None:
    """It is measured and refused with several documents in a row, and gives its own logits with one, padded or not."""
    model = shaken(made("biogpt")).eval()
    ids_BT = random_ids(1, 8, VOCAB)
    with pytest.raises(RecipeError, match=r'biogpt .*see each other: set data.packing = "none"'):
        model(ids_BT, documents_BT=torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]))
    with torch.no_grad():
        padded_BTV = model(ids_BT, documents_BT=torch.tensor([[0, 0, 0, 0, 0, 0, -1, -1]]))
        assert close(padded_BTV[:, :6], model(ids_BT[:, :6]))


REFUSED = {
    "gemma2": ({"head_dim": 8}, "logits after the head"),
    "cohere": ({}, "logits after the head"),
    "granite": ({"logits_scaling": 8.0}, "logits after the head"),
    "phi": ({}, "its head has a bias"),
    "mixtral": ({}, "mixture of experts"),
    "mamba": ({}, "recurrent state"),
    "bloom": ({}, "max_position_embeddings"),
    "gemma3": ({}, "is no language model of text alone"),
    "t5": ({}, "is no language model of text alone"),
    "no-such": ({}, "neither a plugin nor this version of transformers has it"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_does_not_fit_is_refused(family: str) -> None:
    """One plain line that names the family and the reason, from options as from a folder."""
    fields, reason = REFUSED[family]
    known = {key: value for key, value in SHAPE.items() if family in ("cohere", "gemma2", "granite", "mixtral", "phi")}
    known |= {} if known else {"num_hidden_layers": 2} if family in ("mamba", "bloom") else {}
    with pytest.raises(RecipeError, match=rf"^model\.fields: .*{reason}") as error:
        build(TransformersOptions(model_type=family, fields={**known, **fields}), vocab_size=VOCAB)
    assert family in str(error.value) or family == "mixtral"
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=rf"^config\.json: .*{reason}"), torch.device("meta"):
        build.from_config({"model_type": family, "vocab_size": VOCAB, **known, **fields})


def test_a_scale_of_one_is_no_scale() -> None:
    """What is refused is what a head does, not what its family could do."""
    assert made("granite", logits_scaling=1.0).vocab_size == VOCAB


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}, "auto_map names code of its own, which is never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantised"),
        ({"vocab_size": 12}, "fewer than the 97 ids of the tokenizer"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_experts": 4}, "mixture of experts"),
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any], reason: str) -> None:
    """Code of a folder, quantised weights, a vocabulary too small, and a value of another type: one line each."""
    with pytest.raises(RecipeError, match=rf"^model\.fields.*{reason}") as error:
        made("llama", **fields)
    assert "\n" not in str(error.value)


def test_one_of_config_and_model_type() -> None:
    """Both, or none, say nothing that could be built."""
    for options in ({}, {"model.model_type": "gpt2", "model.config": "x"}):
        with pytest.raises(RecipeError, match=r"give one of config \(a folder or config.json\) and model_type"):
            llmx.run(overrides={"data.path": __file__, **options}, model="transformers", tokenizer="char")


def test_a_family_without_a_plugin_is_read_by_the_bridge(registry: Registry) -> None:
    """Those that have a plugin are read by that; the bridge is asked last, and two of its kind are one too many."""
    named = {family: registry.handling("model", family) for family in ("llama", "qwen3", "phi3")}
    assert [offer and offer.component.name != "transformers" for offer in named.values()] == [True, True, False]
    component = Component(name="other", target="other:Model", handles=("*",))
    other = Plugin(name="o", distribution="o", version="0", module="o", status="ok", offers=[("model", component)])
    with pytest.raises(RecipeError, match=r"'phi3' is read by .*: name the model in the recipe"):
        Registry([*registry.plugins, other]).handling("model", "phi3")


def test_without_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registry: Registry) -> None:
    """What is missing is named with what installs it, for a folder of a family that the bridge alone reads."""
    (tmp_path / "config.json").write_text(json.dumps(made("phi3").to_config()))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("llmx_transformers.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PluginError, match=r"'phi3': is read by the package transformers: pip install 'llmx\[transf"):
        pretrained.load_model(tmp_path, registry)
