"""A folder that transformers wrote, served: its greedy text is what transformers generates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

PROMPTS = ["Hello", "你好，世界", "def f(x):\n", "1 2 3 4 5 6 7 8 9", "é"]


@pytest.fixture(scope="module", params=["one end", "a list of ends"])
def folder(request: pytest.FixtureRequest, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it was written, and one whose generation config has tokens that come in its texts."""
    if request.param == "one end":
        return published
    copy = tmp_path_factory.mktemp("listed") / "m"
    shutil.copytree(published, copy)
    path = copy / "generation_config.json"
    model, tokenizer = read(published)
    ends = [tokenizer.eos_token_id, *(generated(model, spelled(tokenizer, each))[9] for each in PROMPTS[:2])]
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": ends}))
    return copy


def read(folder: Path) -> tuple[Any, Any]:
    """Return the model and the tokenizer as transformers reads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def spelled(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer(prompt, add_special_tokens=False).input_ids)


def generated(model: Any, ids: list[int]) -> list[int]:
    """Return what transformers goes on with, by the folder's own generation config."""
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=0,
        )
    return [int(token) for token in whole[0, len(ids) :]]


def test_greedy_texts_are_those_of_transformers(folder: Path, serve: Any) -> None:
    """For texts and for chats by the folder's own template, in one process and asked all at once."""
    import concurrent.futures

    model, tokenizer = read(folder)
    with serve(folder) as server, server.client() as client:

        def ask(prompt: str) -> Any:
            body = {"prompt": prompt, "max_tokens": 40, "temperature": 0}
            return client.post("/v1/completions", json=body).json()

        def say(prompt: str) -> Any:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 40, "temperature": 0}
            return client.post("/v1/chat/completions", json=body).json()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            texts, chats = list(pool.map(ask, PROMPTS)), list(pool.map(say, PROMPTS))
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompt, text, chat in zip(PROMPTS, texts, chats, strict=True):
        ids = generated(model, spelled(tokenizer, prompt))
        assert text["usage"]["completion_tokens"] == len(ids)
        assert text["choices"][0]["text"] == shown(folder, tokenizer, ids)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        ids = generated(model, list(asked))
        ids = ids[: ids.index(turn_end)] if turn_end in ids else ids  # which ends a chat here whatever the config says
        assert chat["choices"][0]["message"]["content"] == shown(folder, tokenizer, ids)
    said = {text["choices"][0]["text"] for text in texts} | {c["choices"][0]["message"]["content"] for c in chats}
    assert len(said) > len(PROMPTS)  # they say something, and not all the same


def shown(folder: Path, tokenizer: Any, ids: list[int]) -> str:
    """Return a text without the token that ends it."""
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    ended = ids[-1] in (ends if isinstance(ends, list) else [ends])
    return str(tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True))
