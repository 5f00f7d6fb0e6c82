"""A folder that transformers wrote, served: its greedy text is what transformers generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

PROMPTS = ["Hello", "你好，世界", "def f(x):\n", "1 2 3 4 5 6 7 8 9", "é"]


@pytest.fixture(scope="module")
def peer(published: Path) -> Any:
    """The model and the tokenizer as transformers reads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(published).eval(), AutoTokenizer.from_pretrained(published)


def generated(peer: Any, ids: list[int], ends: list[int]) -> list[int]:
    model, _ = peer
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )
    return [int(token) for token in whole[0, len(ids) :]]


def test_greedy_texts_are_those_of_transformers(published: Path, peer: Any, serve: Any) -> None:
    """For texts and for chats by the folder's own template, in one process and asked all at once."""
    import concurrent.futures

    _, tokenizer = peer
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with serve(published) as server, server.client() as client:

        def ask(prompt: str) -> str:
            body = {"prompt": prompt, "max_tokens": 40, "temperature": 0}
            return str(client.post("/v1/completions", json=body).json()["choices"][0]["text"])

        def say(prompt: str) -> str:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 40, "temperature": 0}
            return str(client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            texts, chats = list(pool.map(ask, PROMPTS)), list(pool.map(say, PROMPTS))
    for prompt, text, chat in zip(PROMPTS, texts, chats, strict=True):
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        assert text == tokenizer.decode(generated(peer, ids, ends[:1]), skip_special_tokens=True)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        assert chat == tokenizer.decode(generated(peer, list(asked), ends), skip_special_tokens=True)
    assert len({*texts, *chats}) > len(PROMPTS)  # they say something, and not all the same
