"""Token stores that tests write themselves, a model folder that transformers wrote, and a browser for the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmx.data.store import FORMAT, ShardWriter, TokenStore

MakeStore = Callable[..., TokenStore]


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Write a store of these documents in shards of about `shard_tokens`, and open it."""

    def make(
        documents: Sequence[Sequence[int]],
        masks: Sequence[Sequence[bool] | None] | None = None,
        shard_tokens: int = 10**6,
    ) -> TokenStore:
        folder = tmp_path_factory.mktemp("store")
        writers = {name: ShardWriter(folder, name, 2**31) for name in ("train", "val")}
        for ids, mask in zip(documents, masks or [None] * len(documents), strict=True):
            writers["train"].add(np.asarray(ids, np.int32), len(ids), mask)
            if writers["train"].waiting_tokens >= shard_tokens:
                writers["train"].flush()
        for writer in writers.values():
            writer.flush()
        splits = {name: writer.summary() for name, writer in writers.items()}
        (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "splits": splits}))
        return TokenStore(folder, "train")

    return make


@pytest.fixture(scope="session")
def given(corpus: Path) -> list[str]:
    """Overrides of a small run without a model."""
    sizes = ["train.steps=4", "train.tokens_per_update=512", "train.precision=fp32", "data.sequence_length=64"]
    return [f"data.path={corpus}", *sizes, "optimizer.lr=5e-3", "generate.samples=0"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that transformers wrote, with a tokenizer and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "llama"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=300, num_key_value_heads=2, max_position_embeddings=128, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    letters = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}!{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant!{% endif %}"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page at its module's `address`, opened without network; nothing is reported, breached or requested."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page, faults, requests = context.new_page(), [], []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    assert faults == []
    assert set(requests) == {address}
    context.close()
