"""GGUF files in llama.cpp itself: the same tokens from texts, and the same tokens from the model.

`pip install llama-cpp-python` builds it in some ten minutes, and so it is in no extra.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import dequantize, quantize
from torch import nn

import llmx
from llmx.export.write import export

llama_cpp = pytest.importorskip("llama_cpp.llama_cpp")
pytestmark = pytest.mark.long

MakeFolder = Callable[..., Path]
TEXTS = [
    "",
    "Hello world, this is the documentation.",
    "从前有座山，山里有座庙。1314151天～",
    "🚀 (normal) 😶\u200d🌫️ ✅ 3 33 333 3.3 ½ ²",
    " \n \n\n\n \t \t\t leading and trailing   \r\n\r\n  ",
    "a  b   c    d",
    "I've 'RE you're 'told 'Ll",
    "<|im_start|>user\nhi<|im_end|>\n<eos> <bos><unk><pad>",
    "កាន់តែពិសេសអាច नमस्ते שלום",
    "\x00\x01\x7f\u00a0\u3000\ufffd",
    "<0x41> [PAD600] </s>",
]
STEPS = 32
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3 tied": ("Qwen3", "bpe", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3 yarn": (
        "Qwen3",
        "bpe",
        {"rope_parameters": {**YARN, "attention_factor": 1.4}, "tie_word_embeddings": False},
    ),
    "qwen2 biases": ("Qwen2", "bpe", {"tie_word_embeddings": False}),
    "qwen2 yarn": ("Qwen2", "bpe", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "llama sentencepiece": ("Llama", "sentencepiece", {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
    "llama bpe": ("Llama", "bpe", {"num_key_value_heads": 4}),
    "llama char": ("Llama", "char", {"head_dim": 32}),
}


def plain_params(default: Callable[[], Any] = llama_cpp.llama_model_default_params) -> Any:
    """Return llama.cpp's options, but for weights laid out anew for AMX: where a machine forbids that, it crashes."""
    found = default()
    found.use_extra_bufts = False
    return found


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Give a model in llama.cpp that keeps the logits of every position, in fp32."""
    from llama_cpp import Llama

    given = {"n_ctx": 512, "n_batch": 512, "n_threads": 1, "n_threads_batch": 1, "type_k": 0, "type_v": 0}
    with mock.patch.object(llama_cpp, "llama_model_default_params", plain_params):
        model = Llama(str(path), logits_all=True, verbose=False, flash_attn=False, **given)
    try:
        yield model
    finally:
        model.close()


def logits_of(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def greedy(model: Any, ids: list[int]) -> list[int]:
    """Return the likeliest tokens, one after the other, from the cache."""
    model.reset()
    model.eval(ids)
    found: list[int] = []
    for _ in range(STEPS):
        found.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(found[-1:])
    return found


def greedy_here(model: Callable[[torch.Tensor], torch.Tensor], ids: list[int]) -> list[int]:
    for _ in range(STEPS):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-STEPS:]


def reference(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_same_tokens_as_transformers(name: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    """In f32 the logits agree to rounding, also beyond the original context of YaRN, and 32 greedy tokens are equal."""
    family, tokenizer, given = FAMILIES[name]
    folder = make_folder(family, tokenizer, **given)
    export(folder, tmp_path / "m.gguf", type="f32")
    model = reference(folder)
    prompt = torch.randint(4, 250, (1, 300), generator=torch.Generator().manual_seed(1))
    with opened(tmp_path / "m.gguf") as there:
        found = logits_of(there, prompt[0].tolist())
        np.testing.assert_allclose(found, model(prompt).logits[0].numpy(), atol=5e-4)
        for begin in (0, 200):
            ids = prompt[0, begin : begin + 50].tolist()
            assert greedy(there, ids) == greedy_here(lambda ids: model(ids).logits, ids)


@pytest.mark.parametrize("tokenizer", ["bpe", "sentencepiece", "char"])
@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_same_ids_as_tokenizers(family: str, tokenizer: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    """Texts become the same ids, with specials as text and as specials, begin alike, and come back as they were."""
    from tokenizers import Tokenizer

    folder = make_folder(family, tokenizer)
    export(folder, tmp_path / "m.gguf")
    here = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with opened(tmp_path / "m.gguf") as there:
        assert (there.token_bos(), there.token_eos()) == (2, 3)
        for text in TEXTS:
            data = text.encode()
            for special in (False, True):
                here.encode_special_tokens = not special
                ids = here.encode(text, add_special_tokens=False).ids
                assert there.tokenize(data, add_bos=False, special=special) == ids, (text, special)
            here.encode_special_tokens = True
            assert there.tokenize(data, add_bos=True) == here.encode(text).ids
            ids = here.encode(text, add_special_tokens=False).ids
            assert b"".join(there.detokenize([each]) for each in ids).replace(b" ", b"") == data.replace(b" ", b"")


@pytest.mark.parametrize("name", ["qwen3 tied", "qwen2 biases", "llama sentencepiece"])
@pytest.mark.parametrize(("type_", "bound"), [("bf16", 0.02), ("f16", 0.003), ("q8_0", 0.06), ("q4_0", 0.06)])
@torch.no_grad()
def test_types_against_the_same_rounded_weights(
    type_: str, bound: float, name: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    """transformers with the file's own values gives its logits but for what llama.cpp rounds besides, which is what it
    multiplies them with: the exact weights are as far off, or by 4 bits six times as far."""
    family, tokenizer, given = FAMILIES[name]
    folder = make_folder(family, tokenizer, **given)
    export(folder, tmp_path / "m.gguf", type=type_)
    model = reference(folder)
    prompt = torch.randint(4, 250, (1, 300), generator=torch.Generator().manual_seed(1))
    round_weights(model, type_)
    expected = model(prompt).logits[0]
    with opened(tmp_path / "m.gguf") as there:
        found = torch.from_numpy(logits_of(there, prompt[0].tolist()))
    off = float((found - expected).norm() / expected.norm())
    same = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
    assert off < bound
    assert same > 0.9


def round_weights(model: nn.Module, type_: str) -> None:
    """Give the matrices of a model the values that they have in a type; the head of q4_0 has 8 bits."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            tied = not hasattr(model, "lm_head") or model.lm_head.weight is model.model.embed_tokens.weight
            head = name == ("model.embed_tokens.weight" if tied else "lm_head.weight")
            kind = Kind["Q8_0" if type_ == "q4_0" and head else type_.upper()]
            values = dequantize(quantize(parameter.numpy(), kind), kind)
            parameter.copy_(torch.from_numpy(values))


@torch.no_grad()
def test_tinyllm_from_a_run(char_run: Path, tmp_path: Path) -> None:
    """What a run trained says there what it says here."""
    export(char_run, tmp_path / "m.gguf")
    ours = llmx.load(char_run)
    with opened(tmp_path / "m.gguf") as there:
        ids = ours.tokenizer.encode("The following")
        assert there.tokenize(b"The following", add_bos=False) == ids
        start = [2, *ids][: 64 - STEPS]
        assert greedy(there, start) == greedy_here(ours.model, start)
