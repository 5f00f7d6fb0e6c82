"""GGUF files by what the format's own reader finds in them, without llama.cpp."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file

from llmx import CheckpointError, PluginError
from llmx.export import weights
from llmx.export.write import export

MakeFolder = Callable[..., Path]
PADDING = 7
"""Rows of the embedding beyond the tokenizer's ids, in the folders of conftest.py."""

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{each}_proj": f"attn_{each}" for each in "qkv"},
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    **{f"mlp.{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")},
}
"""Names of the folder and of the file, as the format's specification has them."""


def named(source: str) -> str:
    """Return the name in the file of a tensor of the folder."""
    stem, _, kind = source.rpartition(".")
    if stem.startswith("model.layers."):
        number, _, rest = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{NAMES[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def values_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a file as fp32, in the shapes of a folder."""
    found = {}
    for tensor in GGUFReader(path).tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        found[tensor.name] = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return found


def fields_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Put the rows i and i + half of each head beside each other."""
    half = len(weight) // heads // 2
    order = [head * 2 * half + place + part * half for head in range(heads) for place in range(half) for part in (0, 1)]
    return weight[order]


FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("Qwen3", "bpe", {"tie_word_embeddings": True, "head_dim": 32}),
    ("Qwen2", "bpe", {"tie_word_embeddings": False}),
    ("Llama", "sentencepiece", {"tie_word_embeddings": False}),
]


@pytest.mark.parametrize(("family", "tokenizer", "given"), FAMILIES, ids=[each[0] for each in FAMILIES])
def test_all_weights_are_in_the_file(
    family: str, tokenizer: str, given: dict[str, Any], make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Every tensor stands there under llama.cpp's name with its value; a Llama's query and key rows are interleaved."""
    folder = make_folder(family, tokenizer, **given)
    export(folder, tmp_path / "m.gguf")
    stored = {named(name): tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    if family == "Llama":
        stored = {
            name: interleaved(value, 4 if "attn_q." in name else 2)
            if ".attn_q." in name or ".attn_k." in name
            else value
            for name, value in stored.items()
        }
    found = values_of(tmp_path / "m.gguf")
    assert found.keys() == stored.keys()
    assert ("output.weight" in found) != given["tie_word_embeddings"]
    for name, value in stored.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_tied_head_that_is_stored_twice_is_written_once(
    make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path
) -> None:
    """Some writers store it though the config ties it; llama.cpp takes the embedding for it."""
    from safetensors.torch import save_file

    folder = altered(make_folder("Qwen3", tie_word_embeddings=True))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    export(folder, tmp_path / "m.gguf", type="q4_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert "output.weight" not in kinds
    assert kinds["token_embd.weight"] == "Q8_0"


EIGHT = (0.5 + 127 * 2**-11) / 127
"""Half a step of 8 bits, and what the largest value is off by because the scale of its block is in f16."""


@pytest.mark.parametrize(("type_", "step"), [("bf16", 2**-8), ("f16", 2**-11), ("q8_0", EIGHT), ("q4_0", 1 / 8)])
def test_types(type_: str, step: float, make_folder: MakeFolder, tmp_path: Path) -> None:
    """A matrix in fewer bits is off by half a step at most, of the value or of the largest of its 32; norms are exact;
    the head of q4_0 has 8 bits."""
    folder = make_folder("Qwen3", tie_word_embeddings=True)
    export(folder, tmp_path / "m.gguf", type=type_)
    stored = {named(name): tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    found = values_of(tmp_path / "m.gguf")
    for name, value in stored.items():
        if value.ndim == 1:
            assert kinds[name] == "F32", name
            np.testing.assert_array_equal(found[name], value, err_msg=name)
            continue
        eight = type_ == "q4_0" and name == "token_embd.weight"
        assert kinds[name] == ("Q8_0" if eight else type_.upper()), name
        sizes = np.abs(value).reshape(-1, 32)
        largest = sizes.max(1, keepdims=True) if type_.startswith("q") else sizes
        errors = np.abs(found[name] - value).reshape(-1, 32)
        bound = (EIGHT if eight else step) * largest
        assert (errors <= bound * 1.01 + 1e-7).all(), name
        assert errors.max() > 0, name


def test_rows_that_do_not_fill_blocks_stay_and_are_told(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Rows of 80 are no multiple of 32: such matrices stay f16, and each is named."""
    folder = make_folder("Qwen2", intermediate_size=80, tie_word_embeddings=True)
    done = export(folder, tmp_path / "m.gguf", type="q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert [note.partition(":")[0] for note in done.notes] == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"


def test_blocks_of_rows_make_the_same_file(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few rows are converted at a time, the file is the same; a Llama's order of rows is kept through it."""
    folder = make_folder("Llama", "char")
    export(folder, tmp_path / "whole.gguf", type="q8_0")
    monkeypatch.setattr(weights, "BLOCK_BYTES", 64 * 4 * 3)
    export(folder, tmp_path / "parts.gguf", type="q8_0")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()


def test_header(make_folder: MakeFolder, tmp_path: Path) -> None:
    """The options are those of config.json; YaRN's attention factor is what llama.cpp has to multiply its own by."""
    yarn = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    folder = make_folder("Qwen3", head_dim=32, rope_parameters={**yarn, "attention_factor": 1.4, "beta_fast": 20.0})
    export(folder, tmp_path / "m.gguf", type="q8_0")
    fields = fields_of(tmp_path / "m.gguf")
    expected = {
        "block_count": 2, "context_length": 512, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 32,
        "attention.value_length": 32, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 5000.0,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
        "rope.scaling.yarn_beta_fast": 20.0, "rope.scaling.yarn_beta_slow": 1.0,
        "rope.scaling.attn_factor": 1.4 / (0.1 * math.log(4) + 1),
    }  # fmt: skip
    assert fields["general.architecture"] == "qwen3"
    assert fields["general.file_type"] == 7
    for name, value in expected.items():
        found = fields[f"qwen3.{name}"]
        assert found == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def test_the_spelling_of_transformers_4_says_the_same(
    make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path
) -> None:
    """`rope_theta` and `rope_scaling` are read as `rope_parameters` are."""
    new = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    folder = make_folder("Qwen2", rope_parameters=new)
    export(folder, tmp_path / "new.gguf")
    old = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    copy = altered(folder, rope_parameters=None, rope_theta=5000.0, rope_scaling=old)
    export(copy, tmp_path / "old.gguf")
    one, two = fields_of(tmp_path / "new.gguf"), fields_of(tmp_path / "old.gguf")
    assert {k: v for k, v in one.items() if k != "general.name"} == {
        k: v for k, v in two.items() if k != "general.name"
    }


def test_byte_level_vocabulary(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Tokens, merges and types are those of tokenizer.json; ids without a token are marked unused."""
    folder = make_folder("Qwen2")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export(folder, tmp_path / "m.gguf")
    fields, form = fields_of(tmp_path / "m.gguf"), json.loads((folder / "tokenizer.json").read_text())
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    ids = form["model"]["vocab"]
    assert [tokens[id_] for id_ in ids.values()] == list(ids)
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in form["model"]["merges"]]
    specials = [ids[token] for token in ("<pad>", "<unk>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>")]
    assert [id_ for id_, kind in enumerate(types) if kind == 3] == specials
    assert [id_ for id_, kind in enumerate(types) if kind == 5] == list(range(len(ids), len(ids) + PADDING))
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    assert [fields[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos")] == [2, 3]
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.chat_template"] == "{{ messages }}"


def test_sentencepiece_vocabulary(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Learned pieces rank as sentencepiece itself ranks them, bytes are bytes, and no space is put first."""
    from sentencepiece import SentencePieceProcessor

    folder = make_folder("Llama", "sentencepiece")
    export(folder, tmp_path / "m.gguf")
    fields = fields_of(tmp_path / "m.gguf")
    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokens, types, scores = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    size = model.vocab_size()
    assert tokens[:size] == [model.id_to_piece(id_) for id_ in range(size)]
    kinds = [
        2 if model.is_unknown(n) else 3 if model.is_control(n) else 6 if model.is_byte(n) else 1 for n in range(size)
    ]
    assert types == [*kinds, *[5] * PADDING]
    joined = [id_ for id_ in range(size) if types[id_] == 1 and len(tokens[id_]) > 1]
    assert len(joined) > 100
    assert sorted(joined, key=lambda id_: -scores[id_]) == sorted(joined, key=lambda id_: -model.get_score(id_))
    assert fields["tokenizer.ggml.add_space_prefix"] is False


def test_char_vocabulary(make_folder: MakeFolder, tmp_path: Path) -> None:
    """A character is a piece, the space the sign that stands for it, and nothing is joined."""
    folder = make_folder("Llama", "char")
    export(folder, tmp_path / "m.gguf")
    fields, form = fields_of(tmp_path / "m.gguf"), json.loads((folder / "tokenizer.json").read_text())
    tokens, ids = fields["tokenizer.ggml.tokens"], form["model"]["vocab"]
    assert tokens[ids[" "]] == "\u2581"
    assert all(tokens[id_] == token for token, id_ in ids.items() if token != " ")
    assert set(fields["tokenizer.ggml.scores"]) == {-1000.0}


REFUSED_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "gemma3"}, r"config\.json: model_type = 'gemma3': .*known: llama, qwen2, qwen3"),
    ({"hidden_act": "gelu"}, r"config\.json: .*hidden_act = 'gelu'"),
    ({"use_sliding_window": True}, r"use_sliding_window = True"),
    ({"num_hidden_layers": None}, r"config\.json: lacks num_hidden_layers"),
    ({"rope_parameters": {"rope_type": "yarn"}}, r"config\.json: lacks factor"),
    ({"rope_parameters": {"rope_type": "longrope"}}, r"rope_type = 'longrope'"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config"),
    ({"num_hidden_layers": 1}, r"model\.layers\.1\..*has no such tensor"),
    ({"eos_token_id": None}, r"no eos_token_id"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED_CONFIGS)
def test_what_llama_cpp_does_not_compute_is_refused(
    values: dict[str, Any], message: str, make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path
) -> None:
    """One plain line names the key, and no file is left."""
    folder = altered(make_folder("Qwen2"), **values)
    if "eos_token_id" in values:
        (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=message) as caught:
        export(folder, tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["altered"]


def without_a_merge(form: dict[str, Any]) -> None:
    del form["model"]["merges"][20]


def scattered(form: dict[str, Any]) -> None:
    """Put one of the merges that make a piece after those of all others."""
    merges = form["model"]["merges"]
    made = [left + right for left, right in merges]
    merges.append(merges.pop(next(at for at, piece in enumerate(made) if made.count(piece) > 1)))


REFUSED_TOKENIZERS: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("bpe", lambda form: form["model"].update(type="Unigram"), r"a Unigram tokenizer has no form in GGUF"),
    ("bpe", lambda form: form["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"), r"no name for"),
    ("bpe", lambda form: form.update(normalizer={"type": "Lowercase"}), r"no name for"),
    ("bpe", lambda form: form["model"].update(ignore_merges=True), r"whole words"),
    ("bpe", lambda form: form["model"]["vocab"].update(far=10_000), r"10001 ids, the model's embedding only"),
    ("sentencepiece", without_a_merge, r"not those of pieces by score"),
    ("sentencepiece", scattered, r"its merges are not those"),
    ("sentencepiece", lambda form: form.update(normalizer={"type": "NFKC"}), r"changes a text"),
    ("char", lambda form: form["model"]["vocab"].update({"\u2581": 260}), r"U\+2581"),
]


@pytest.mark.parametrize(("tokenizer", "alter", "message"), REFUSED_TOKENIZERS, ids=[e[2] for e in REFUSED_TOKENIZERS])
def test_tokenizers_without_a_form_are_refused(
    tokenizer: str,
    alter: Callable[[dict[str, Any]], object],
    message: str,
    make_folder: MakeFolder,
    altered: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """What llama.cpp would encode otherwise without a word is refused with one."""
    folder = altered(make_folder("Llama", tokenizer))
    form = json.loads((folder / "tokenizer.json").read_text())
    alter(form)
    (folder / "tokenizer.json").write_text(json.dumps(form))
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "m.gguf")


def test_a_tokenizer_json_is_needed(make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path) -> None:
    """A folder without one is refused by the file's name."""
    folder = altered(make_folder("Qwen2"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        export(folder, tmp_path / "m.gguf")


def test_values_beyond_f16_are_refused(make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path) -> None:
    """They would become infinite; the tensor is named."""
    from safetensors.torch import save_file

    folder = altered(make_folder("Qwen2"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 7e4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: .*f16.*use bf16"):
        export(folder, tmp_path / "m.gguf", type="f16")
    export(folder, tmp_path / "m.gguf", type="bf16")
    assert float(torch.tensor(values_of(tmp_path / "m.gguf")["blk.1.ffn_up.weight"])[3, 5]) == 70144.0


def test_without_the_package(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install."""
    folder = make_folder("Qwen2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(PluginError, match=r"pip install 'llmx\[gguf\]'"):
        export(folder, tmp_path / "m.gguf")
