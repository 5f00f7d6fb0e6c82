"""Qwen3 and Qwen2.5 against transformers: folders in both directions, cached decoding, gradients, and what is refused.

Shapes: `B` rows, `T` tokens, `V` vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmx import CheckpointError, Registry, pretrained
from llmx.options import structure
from llmx.recipe import Part
from llmx.testing.frame import run_checks
from llmx.testing.reference import shaken
from llmx_qwen import Qwen3Options, Qwen25Options
from llmx_qwen.model import Qwen, Qwen3, Qwen25
from llmx_tokenizers import CharOptions
from llmx_tokenizers.char import CharTokenizer

TOLERANCE = 1e-4
"""Largest difference of logits in fp32 that issue 5 allows."""
FAMILIES = {"qwen3": (Qwen3, Qwen3Options), "qwen2.5": (Qwen25, Qwen25Options)}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
BENT = {**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3}
ROPES = {"plain": None, "yarn": YARN, "bent": BENT}
CASES = [
    pytest.param(name, tied, rope, id=f"{name}-{'tied' if tied else 'untied'}-{rope}")
    for name in FAMILIES
    for tied, rope in ((True, "plain"), (False, "plain"), (True, "yarn"), (False, "bent"))
]


def reference(name: str, tied: bool, rope: str, **changed: Any) -> nn.Module:
    """Make a model of transformers with random weights, norms and biases among them: 4 heads over 2, and in Qwen3 heads
    that together are wider than the model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    values: dict[str, Any] = {
        "vocab_size": 99,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32 if ROPES[rope] else 128,
        "tie_word_embeddings": tied,
        "rope_parameters": ROPES[rope] or {"rope_type": "default", "rope_theta": 10_000.0},
        **changed,
    }
    torch.manual_seed(0)
    if name == "qwen3":
        model: nn.Module = Qwen3ForCausalLM(Qwen3Config(**{"head_dim": 16, **values}))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**values))
    return shaken(model.float().eval(), 0)  # type: ignore[no-any-return]


def ids(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(99, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def written(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def assert_same_gradients(ours: nn.Module, theirs: Any) -> None:
    """Every parameter has the gradient of the loss that the other's has, within 1e-4 of its norm."""
    ids_BT = ids(2, 41)
    inputs_BT, labels_M = ids_BT[:, :-1], ids_BT[:, 1:].flatten()
    for logits_BTV in (ours(inputs_BT), theirs(inputs_BT).logits):
        F.cross_entropy(logits_BTV.flatten(0, 1), labels_M).backward()
    wanted = dict(theirs.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == wanted.keys()
    for name, parameter in found.items():
        off = (parameter.grad - wanted[name].grad).norm() / wanted[name].grad.norm()
        assert off < TOLERANCE, f"{name}: {off:.1e}"


@pytest.mark.parametrize(("name", "tied", "rope"), CASES)
def test_a_folder_of_transformers_gives_its_logits_and_gradients(
    name: str, tied: bool, rope: str, tmp_path: Path
) -> None:
    """In one forward and decoded with a cache, past the original context where YaRN stretches it; then one training
    step's gradient of every parameter."""
    theirs = reference(name, tied, rope)
    ours = pretrained.load_model(written(theirs, tmp_path), Registry())
    assert type(ours) is FAMILIES[name][0]
    assert (ours.context_length, bool(ours.tied_names)) == (128, tied)
    ids_BT = ids(2, 128)
    with torch.no_grad():
        wanted_BTV = theirs(ids_BT).logits
        assert (ours(ids_BT) - wanted_BTV).abs().max() < TOLERANCE
        cache = ours.new_cache(2, 128)
        parts = [ours(part, cache=cache) for part in ids_BT.split([20, 7, *[1] * 101], dim=1)]
    assert (torch.cat(parts, 1) - wanted_BTV).abs().max() < TOLERANCE
    assert_same_gradients(ours.train(), theirs.train())


@pytest.mark.parametrize(("name", "tied", "rope"), CASES)
@pytest.mark.parametrize("spelling", [4, 5])
def test_our_folder_loads_in_transformers(name: str, tied: bool, rope: str, spelling: int, tmp_path: Path) -> None:
    """The family's own class, no tensor missing or left over, the same logits, decoded too, and gradients; with what
    transformers 5 reads of the config, and with what 4 does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = ours_like(name, tied, rope)
    folder = saved(ours, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    dropped = ("rope_parameters", "dtype") if spelling == 4 else ("rope_theta", "rope_scaling", "torch_dtype")
    assert all(key in config for key in dropped)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in dropped}))
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == ours.architecture
    assert theirs.dtype == torch.float32
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids_BT = ids(2, 128)
    with torch.no_grad():
        assert (ours(ids_BT) - theirs(ids_BT).logits).abs().max() < TOLERANCE
        greedy_T = theirs.generate(ids_BT[:1, :20], max_new_tokens=60, do_sample=False, eos_token_id=-1, pad_token_id=0)
        full_V = ours(greedy_T[:, :-1])[0, 19:].argmax(-1)
    assert torch.equal(greedy_T[0, 20:], full_V)
    assert_same_gradients(ours.train(), theirs.train())
    assert AutoTokenizer.from_pretrained(folder).encode("ab") == [2, *TOKENIZER.encode("ab")]


TOKENIZER = CharTokenizer.build(CharOptions(), ["abc"])


def ours_like(name: str, tied: bool, rope: str) -> Qwen:
    """Build our model of the shape of `reference`, by hand."""
    cls, options = FAMILIES[name]
    values: dict[str, Any] = {"dim": 48, "layers": 3, "heads": 4, "kv_heads": 2, "mlp_dim": 80, "tied": tied}
    if name == "qwen3":
        values["head_dim"] = 16
    if ROPES[rope] is None:
        values["context_length"] = 128
    else:
        values |= {"yarn_factor": 4.0, "yarn_original_context": 32}
    if rope == "bent":
        values |= {"yarn_beta_fast": 4.0, "yarn_beta_slow": 0.5, "yarn_attention_factor": 1.3}
    torch.manual_seed(0)
    model: Qwen = shaken(cls(options(**values), vocab_size=TOKENIZER.vocab_size).eval(), 0)
    return model


def saved(model: Qwen, folder: Path) -> Path:
    facts = {"model": "qwen3" if isinstance(model, Qwen3) else "qwen2.5", "tokenizer": "char"}
    pretrained.save(folder / "m", model, model.state_dict(), TOKENIZER, facts, shard_bytes=60_000)
    assert len(list((folder / "m").glob("model-*.safetensors"))) > 1
    return folder / "m"


@pytest.mark.parametrize(("name", "tied", "rope"), CASES)
def test_our_folder_loads_here(name: str, tied: bool, rope: str, tmp_path: Path) -> None:
    """By `llmx.json`, and without it by model_type: the same logits to the last bit."""
    ours = ours_like(name, tied, rope)
    folder = saved(ours, tmp_path)
    with torch.no_grad():
        wanted_BTV = ours(ids(2, 30))
        assert torch.equal(pretrained.load(folder, Registry()).model(ids(2, 30)), wanted_BTV)
        (folder / "llmx.json").unlink()
        assert torch.equal(pretrained.load_model(folder, Registry())(ids(2, 30)), wanted_BTV)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rope", ROPES)
def test_the_config_of_transformers_4_is_read(name: str, rope: str, tmp_path: Path) -> None:
    """`rope_theta`, `rope_scaling` with `rope_type` or with the older `type`, and the window settings of the published
    configs, which are off: the same logits."""
    theirs = reference(name, True, rope)
    config = json.loads((written(theirs, tmp_path) / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 1}
    del config["layer_types"]
    for kind in ("rope_type", "type"):
        scaling = {k: v for k, v in (ROPES[rope] or {}).items() if k not in ("rope_type", "rope_theta")}
        config["rope_scaling"] = {kind: "yarn", **scaling} if scaling else None
        (tmp_path / "config.json").write_text(json.dumps(config))
        ours = pretrained.load_model(tmp_path, Registry())
        with torch.no_grad():
            assert (ours(ids(2, 100)) - theirs(ids(2, 100)).logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rope", ["plain", "yarn"])
def test_angles_far_out_are_those_of_transformers(name: str, rope: str, tmp_path: Path) -> None:
    """At position 130,000, where the last bit of a frequency is worth more than the tolerance."""
    far = {**YARN, "original_max_position_embeddings": 32_768} if rope == "yarn" else {"rope_type": "default"}
    changed = {"rope_parameters": {**far, "rope_theta": 1e6}, "max_position_embeddings": 131_072}
    theirs = reference(name, True, "plain", **changed)
    ours = pretrained.load_model(written(theirs, tmp_path), Registry())
    positions_BT = torch.tensor([[0, 1, 300, 40_000, 99_999, 130_000, 130_001, 130_007]])
    with torch.no_grad():
        wanted_BTV = theirs(ids(1, 8), position_ids=positions_BT, attention_mask=torch.ones(1, 8)).logits
        assert (ours(ids(1, 8), positions_BT=positions_BT) - wanted_BTV).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("values", [{"context_length": 48}, {"yarn_factor": 4.0, "yarn_original_context": 16}])
def test_the_conformance_kit_passes(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    """Every check of the kit, with grouped heads, with and without YaRN."""
    (offer,) = [each for each in Registry().offers("model") if each.component.name == name]
    shape = {"dim": 48, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 96, "tied": len(values) == 1}
    options, faults = structure(offer.component.options, {**shape, **values}, name)
    assert not faults
    results = list(run_checks(Part(name, offer, options), tmp_path))
    assert len(results) > 10
    assert not [each for each in results if each.status != "passed"]


class Packed(nn.Module):
    """A frozen linear module whose weight is a buffer of another shape, as a quantised one's."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.register_buffer("packed", linear.weight.detach().reshape(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.packed.view(self.out_features, self.in_features), self.bias)


class Wrapped(nn.Module):
    """What an adapter puts in the place of a linear module."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.base_layer = Packed(linear)
        self.lora_A = nn.Linear(self.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, self.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x))
        return added


@pytest.mark.parametrize("name", FAMILIES)
def test_linear_modules_may_be_exchanged(name: str) -> None:
    """With a wrapper around every linear module of its blocks, it decodes with a cache, and counts its work."""
    model = ours_like(name, True, "plain")
    before = model.flops_per_token(64)
    added = 0
    for block in model.blocks():
        for module in list(block.modules()):
            for child_name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, child_name, Wrapped(child))
                    added += 2 * (child.in_features + child.out_features)
    assert model.flops_per_token(64) == before + 6 * added
    with torch.no_grad():
        full_BTV, cache = model(ids(2, 30)), model.new_cache(2, 30)
        parts = [model(part, cache=cache) for part in ids(2, 30).split([12, 1, 17], dim=1)]
    assert (torch.cat(parts, 1) - full_BTV).abs().max() < TOLERANCE


SLIDES = {"use_sliding_window": True, "sliding_window": 16}


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({**SLIDES, "layer_types": None, "max_window_layers": 1}, "use_sliding_window = True"),
        ({**SLIDES, "layer_types": ["sliding_attention"] * 3}, "use_sliding_window = True"),
        ({"hidden_act": "gelu"}, "with hidden_act = 'gelu' is not a model that llmx builds"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config = .*gptq"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "kind 'llama3': only default and yarn are read"),
        ({"rope_parameters": {**YARN, "mscale": 2.0}}, "kind mscale = 2.0"),
        ({"rope_scaling": YARN}, "rope_parameters and rope_scaling differ"),
        ({"num_attention_heads": 5}, "kv_heads = 2 must divide heads = 5|must be a multiple of heads"),
        ({"num_attention_heads": 0}, "'heads' must be >= 1: 0"),
        ({"hidden_size": "48"}, "config.json: "),
        ({"num_key_value_heads": ...}, "lacks 'num_key_value_heads'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map asks for code of the folder, which is never run"),
        ({"head_dim": 20}, "head_dim = 20|has shape"),
        ({"attention_bias": True}, "attention_bias = True"),
    ],
)  # fmt: skip
def test_a_config_that_asks_for_more_is_refused(
    name: str, changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One plain line that names the folder and the key."""
    config = json.loads((written(reference(name, True, "plain"), tmp_path) / "config.json").read_text())
    config = {k: v for k, v in {**config, **changed}.items() if v is not ...}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if name == "qwen2.5" and "attention_bias" in changed:
        pretrained.load_model(tmp_path, Registry())  # transformers has no such setting for this family
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        pretrained.load_model(tmp_path, Registry())
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_of_another_family_is_refused(name: str, tmp_path: Path) -> None:
    """Where the recipe names the model: its own families are said."""
    config = json.loads((written(reference(name, True, "plain"), tmp_path) / "config.json").read_text())
    pretrained.load_model(tmp_path, Registry(), name=name)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    own = {"qwen3": "qwen3", "qwen2.5": "qwen2"}[name]
    with pytest.raises(CheckpointError, match=f"model_type = 'llama': the model '{name}' reads {own} only: leave"):
        pretrained.load_model(tmp_path, Registry(), name=name)


def test_a_window_that_no_layer_has_is_accepted(tmp_path: Path) -> None:
    """`max_window_layers` as high as the layers leaves the setting without effect, as in transformers."""
    theirs = reference("qwen2.5", True, "plain", use_sliding_window=True, sliding_window=4, max_window_layers=3)
    ours = pretrained.load_model(written(theirs, tmp_path), Registry())
    with torch.no_grad():
        assert (ours(ids(1, 30)) - theirs(ids(1, 30)).logits).abs().max() < TOLERANCE
