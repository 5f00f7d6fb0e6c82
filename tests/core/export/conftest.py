"""Model folders as transformers writes them, of random weights, with tokenizers of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SPECIALS = ("<|im_start|>", "<|im_end|>")
TOKENIZERS: dict[str, dict[str, Any]] = {
    "bpe": {"vocab_size": 600, "special_tokens": SPECIALS},
    "sentencepiece": {"vocab_size": 600, "character_coverage": 0.999, "special_tokens": SPECIALS},
    "char": {"min_freq": 3},
}
"""Options by component, so that small corpora give some of everything."""
CHINESE = "从前有座山，山里有座庙。庙里有个老和尚在讲故事。🚀😶\u200d🌫️ I've 'RE 3.3 1314151天～\n"
PADDING = 7
"""Rows of the embedding beyond the tokenizer's ids."""

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Callable[[str], Path]:
    """Learn a tokenizer of ours from English and some Chinese, once, and return the folder it is in."""
    from llmx.options import structure
    from llmx.registry import Registry

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            component = Registry().find("tokenizer", name).component
            options, faults = structure(component.options, TOKENIZERS[name], "tokenizer")
            assert not faults
            text = corpus.read_text(encoding="utf-8")
            made[name] = tmp_path_factory.mktemp(name)
            component.load().build(options, [text[:30_000], *[CHINESE] * 30]).save(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Callable[[str], Path]) -> MakeFolder:
    """Write a small model of a family, with norms and biases that are not all the same, as transformers does."""
    import transformers

    def make(family: str, tokenizer: str = "bpe", *, shards: str = "5GB", **given: Any) -> Path:
        from tokenizers import Tokenizer

        folder, source = tmp_path_factory.mktemp(family.lower()), tokenizer_folder(tokenizer)
        size = Tokenizer.from_file(str(source / "tokenizer.json")).get_vocab_size()
        shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
        values = {"vocab_size": size + PADDING, **shape, **heads, "initializer_range": 0.2, **given}
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**values)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(folder, max_shard_size=shards)
        for path in source.iterdir():
            shutil.copy(path, folder)
        return folder

    return make


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """Copy a model folder and change keys of its config.json."""

    def alter(folder: Path, **values: Any) -> Path:
        copy = tmp_path / "altered"
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **values}))
        return copy

    return alter
