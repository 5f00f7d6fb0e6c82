"""What ends a text: what the model's folder says, and the same of a run with and without its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import llmx
from llmx import CheckpointError
from llmx.specials import END, GENERATION, read_ends

CHATS = '{"query": "Who are you?", "response": "I am Bo."}\n' * 40


def with_ends(folder: Path, copy: Path, ends: Any) -> Path:
    shutil.copytree(folder, copy)
    (copy / GENERATION).write_text(json.dumps({END: ends}))
    return copy


@pytest.mark.parametrize(("given", "ends"), [(7, {7}), ([5, 9], {5, 9}), (None, set())])
def test_the_generation_config_ends_texts(llama: Path, tmp_path: Path, given: Any, ends: set[int]) -> None:
    """One id, several or none, besides the tokenizer's own end; in texts and in chats."""
    loaded = llmx.load(with_ends(llama, tmp_path / "m", given))
    assert loaded.ends == ends
    own = loaded.tokenizer.eos_id
    assert loaded.request("a").stop_ids == {*ends, own}
    assert loaded.request(loaded.question("a")).stop_ids == {*ends, own, loaded.tokenizer.special_id("<|im_end|>")}


def test_without_it_the_config_does(llama: Path, tmp_path: Path) -> None:
    """As in transformers, which reads config.json only then."""
    from transformers import AutoModelForCausalLM

    folder = with_ends(llama, tmp_path / "m", None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, END: [11, 12]}))
    assert read_ends(folder) == set()
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id is None
    (folder / GENERATION).unlink()
    assert read_ends(folder) == {11, 12}
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [11, 12]


@pytest.mark.parametrize("given", ["5", 5.5, True, [None], [[1]], {}])
def test_what_is_no_id_is_told(llama: Path, tmp_path: Path, given: Any) -> None:
    """In one line that names the file and the value."""
    with pytest.raises(CheckpointError, match=r"m/generation_config\.json: eos_token_id = .*must be the id") as caught:
        llmx.load(with_ends(llama, tmp_path / "m", given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [(), ("checkpoint.merge=false",)])
def test_a_run_ends_texts_as_its_folder_does(
    llama: Path, given: list[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """While it trains, from its checkpoint, with adapters apart, and as what it exports: by its base and its chats."""
    base = with_ends(llama, tmp_path / "base", [5, 9])
    (tmp_path / "chats.jsonl").write_text(CHATS)
    rows = [f"data.path={tmp_path / 'chats.jsonl'}", "data.held_out=0", f"model.pretrained={base}"]
    options = [*(each for each in given if "data.path" not in each), *rows, "template.name=chatml", *more]
    run = llmx.run(overrides=options, adapter=["lora"], logger=["jsonl"], out=tmp_path / "r")
    ends = {5, 9, run.tokenizer.special_id("<|im_end|>")}
    assert run.ends == ends
    assert llmx.load(run.folder).ends == ends
    if not more:
        assert llmx.load(run.folder / "model").ends == ends
        shutil.rmtree(run.folder / "model")
        assert llmx.load(run.folder).ends == ends


def test_a_run_with_a_tokenizer_of_its_own_leaves_the_base_s_ids(llama: Path, given: list[str], tmp_path: Path) -> None:
    """They would mean other tokens: from a checkpoint as from the folder."""
    base = with_ends(llama, tmp_path / "base", [5, 9])
    own = [*given, f"model.pretrained={base}", "tokenizer.min_freq=2000"]
    run = llmx.run(overrides=own, tokenizer="char", logger=["jsonl"], out=tmp_path / "r")
    whole = llmx.load(run.folder).ends
    assert run.ends == whole == {run.tokenizer.eos_id}
    shutil.rmtree(run.folder / "model")
    assert llmx.load(run.folder).ends == whole
