"""Runs that begin with a model folder: what they take from it, what they keep, and when they refuse to go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llmx
from llmx import RecipeError, pretrained
from llmx.assembly import assemble
from llmx.protocols import Message
from llmx.recipe import Recipe
from llmx.registry import Registry


def resolve(*overrides: str, **names: Any) -> Recipe:
    from llmx.api import layers_of

    return Recipe.resolve(layers_of(overrides=overrides, **names))


def ids(vocab: int) -> torch.Tensor:
    return torch.arange(24)[None] * 7 % vocab


# --- what is taken from the folder ----------------------------------------------------------------------------------


def test_a_run_goes_on_from_a_folder_of_transformers(llama: Path, given: list[str], tmp_path: Path) -> None:
    """It begins with the folder's logits and tokenizer, trains, and ends with a folder that transformers loads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = resolve(*given, f"model.pretrained={llama}")
    assert (recipe.model.name, recipe.tokenizer.name) == ("tinyllm", "hf")
    fresh = assemble(recipe, Registry(), tmp_path / "x")
    theirs = AutoModelForCausalLM.from_pretrained(llama)
    torch.testing.assert_close(fresh.model(ids(260)), theirs(ids(260)).logits, atol=1e-5, rtol=1e-4)
    text = "Continue: 世界 <s>"
    assert (
        fresh.tokenizer.encode("Continue: 世界") == AutoTokenizer.from_pretrained(llama)("Continue: 世界")["input_ids"]
    )
    assert fresh.tokenizer.decode(fresh.tokenizer.encode(text)) == text
    run = llmx.run(overrides=[*given, f"model.pretrained={llama}"], logger=["jsonl"], out=tmp_path / "r")
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    ended = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model")
    run.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(ended(ids(260)).logits, run.model(ids(260)), atol=1e-5, rtol=1e-4)


def test_a_folder_of_ours_names_its_parts(char_run: Path, given: list[str], tmp_path: Path) -> None:
    """The model and the tokenizer that wrote a folder read it again, and what is resolved reads back the same."""
    overrides = [*given, f"model.pretrained={char_run / 'model'}"]
    recipe = resolve(*overrides)
    assert (recipe.model.name, recipe.tokenizer.name) == ("tinyllm", "char")
    fresh = assemble(recipe, Registry(), tmp_path / "x")
    trained = llmx.load(char_run)
    vocab = trained.tokenizer.vocab_size
    fresh.module.eval()
    assert torch.equal(fresh.model(ids(vocab)), trained.model(ids(vocab)))
    run = llmx.run(overrides=[*overrides, "train.steps=1"], logger=["jsonl"], out=tmp_path / "r")
    assert run.recipe.to_plain()["model"] == {"name": "tinyllm", "pretrained": str(char_run / "model")}
    again = resolve_folder(tmp_path / "r")
    assert again.to_plain() == run.recipe.to_plain()
    assert llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=2"]).state.step == 2


def resolve_folder(folder: Path) -> Recipe:
    from llmx.api import layers_of

    return Recipe.resolve(layers_of(folder))


def test_chats_are_written_by_the_folders_template(llama: Path, given: list[str], tmp_path: Path) -> None:
    """An unnamed template is the folder's own; a named one goes before it."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text(
        "\n".join(
            json.dumps({"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Ho"}]})
            for n in range(40)
        )
    )
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    options = [*given, f"data.path={chats}", f"model.pretrained={base}", "train.steps=1"]
    recipe = resolve(*options)
    assert recipe.template.name.endswith("jinja")
    run = assemble(recipe, Registry(), tmp_path / "x")
    assert "user!Hi " in run.tokenizer.decode(run.train_rows.batch(0, 1).ids_BT[0].tolist())
    assert resolve(f"model.pretrained={base}", template="chatml").template.name == "chatml"
    llmx.run(overrides=options, logger=["jsonl"], out=tmp_path / "r")
    shutil.rmtree(base)  # the template travels with the model
    template = pretrained.load(tmp_path / "r" / "model", Registry()).template
    assert template is not None
    assert "user!Ha" in "".join(piece.text for piece in template.pieces([Message("user", "Ha")]))


def test_weights_are_in_the_type_asked_for(llama: Path, given: list[str], tmp_path: Path) -> None:
    """What is trained is fp32 unless bf16 is asked for, which needs products in bf16."""
    bf16 = [*given, f"model.pretrained={llama}", "train.weights=bf16", "train.steps=2"]
    with pytest.raises(RecipeError, match=r'train\.weights = "bf16": needs train\.precision = "bf16", which is fp32'):
        assemble(resolve(*bf16), Registry(), tmp_path / "x")
    run = llmx.run(overrides=[*bf16, "train.precision=bf16"], logger=["jsonl"], out=tmp_path / "r")
    assert {p.dtype for p in run.parameters()} == {torch.bfloat16}
    assert json.loads((tmp_path / "r" / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    small = assemble(resolve(*given, f"model.pretrained={tmp_path / 'r' / 'model'}"), Registry(), tmp_path / "x")
    assert {p.dtype for p in small.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.pretrained=LLAMA", "model.layers=3"],
            r"model\.layers=3: model\.layers: the folder's config\.json says",
        ),
        (
            ["model.pretrained=LLAMA", "tokenizer.vocab_size=9"],
            r"tokenizer\.vocab_size: the model's own tokenizer takes",
        ),
        (["model.pretrained=./gone"], r"model\.pretrained = './gone': no such folder: give a Hugging Face folder"),
        (["model.pretrained=EMPTY"], r"model\.pretrained = .*no config\.json: not a model folder"),
        (["tokenizer.name=pretrained"], r"tokenizer\.name = 'pretrained': needs model\.pretrained"),
    ],
)
def test_what_does_not_fit_is_said(llama: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    """Each fault is one line that names the option."""
    (tmp_path / "empty").mkdir()
    places = {"LLAMA": str(llama), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        overrides = [each.replace(name, place) for each in overrides]
    with pytest.raises(RecipeError, match=message) as error:
        resolve(*overrides)
    assert len(str(error.value).splitlines()) == 1


def test_a_model_of_a_hub_needs_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a name of the hub that was never fetched is one line, and its reason."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"model\.pretrained = 'acme/none': no such folder, and it cannot be fetched"):
        resolve("model.pretrained=acme/none")


def test_a_tokenizer_must_fit_the_embedding(llama: Path, given: list[str], tmp_path: Path) -> None:
    """Ids without a row would fail in the middle of an epoch."""
    other = [*given, f"model.pretrained={llama}", "tokenizer.vocab_size=600"]
    with pytest.raises(RecipeError, match=r"tokenizer\.name = 'bpe': has 600 ids, the embedding of .* only 300"):
        assemble(resolve(*other, tokenizer="bpe"), Registry(), tmp_path / "x")


def test_a_trained_folder_keeps_what_the_base_says_of_generation(llama: Path, given: list[str], tmp_path: Path) -> None:
    """At the end of the run and from a checkpoint; with another tokenizer its ids would mean other tokens."""
    from llmx.export.write import export

    base = tmp_path / "base"
    shutil.copytree(llama, base)
    chosen = {"eos_token_id": 5, "temperature": 0.6, "top_k": 20}
    (base / "generation_config.json").write_text(json.dumps(chosen))
    short = [*given, f"model.pretrained={base}", "train.steps=1"]
    llmx.run(overrides=short, logger=["jsonl"], out=tmp_path / "r")
    export(tmp_path / "r", tmp_path / "last", step="last")
    other = [*short, "tokenizer.min_freq=2000"]
    llmx.run(overrides=other, tokenizer="char", logger=["jsonl"], out=tmp_path / "char")
    written = [tmp_path / "r" / "model", tmp_path / "last", tmp_path / "char" / "model"]
    found = [json.loads((folder / "generation_config.json").read_text()) for folder in written]
    assert found[:2] == [chosen, chosen]
    assert "temperature" not in found[2]


# --- how much, and what is kept -------------------------------------------------------------------------------------


def test_only_the_first_documents_are_read(llama: Path, given: list[str], tmp_path: Path) -> None:
    """A source gives no more documents than asked for, and another number is other data in the cache."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"text": f"Document {n} " * 40}) for n in range(60)))
    sizes = {}  # the tokenizer is the same for all: it learns nothing from the documents
    for most in (10, 20):
        options = [f"data.path={lines}", f"data.max_samples={most}", "data.held_out=0", f"model.pretrained={llama}"]
        run = assemble(resolve(*given, *options), Registry(), tmp_path / "x")
        sizes[most] = run.train_rows.facts()["documents"]
    assert sizes == {10: 10, 20: 20}


def test_the_checkpoint_of_each_epoch_is_kept(given: list[str], tmp_path: Path) -> None:
    """They outlive `keep_last`, and a resumed run still knows them."""
    options = ["model.preset=nano", "train.epochs=2", "checkpoint.every_epoch=true", "checkpoint.keep_last=1"]
    overrides = [*given, *options, "train.tokens_per_update=8192", "data.held_out=0", "checkpoint.every=5"]
    run = llmx.run(overrides=[each for each in overrides if "steps" not in each], tokenizer="char", out=tmp_path / "r")
    per_epoch = run.train_rows.rows_per_epoch / run.sizes.rows
    first = -(-run.train_rows.rows_per_epoch // run.sizes.rows)
    assert first - 1 < per_epoch <= first < run.sizes.steps
    names = [path.name for path in sorted((tmp_path / "r" / "checkpoints").iterdir())]
    assert names == [f"step-{first:08d}", f"step-{run.sizes.steps:08d}"]
    llmx.run(tmp_path / "r", resume=True, overrides=["train.epochs=2.5"])
    assert (tmp_path / "r" / "checkpoints" / f"step-{first:08d}").exists()


def test_the_size_of_an_update_by_the_law(given: list[str], tmp_path: Path) -> None:
    """(N * D)^0.4 in whole rows, at most a twentieth of an epoch; the number is the run's, and it resumes."""
    from llmx.assembly import auto_tokens_per_update

    tokens, working = auto_tokens_per_update(1024, 10**6, 7 * 10**9)
    assert tokens == round((7e9 * 1024e6) ** 0.4 / 1024) * 1024
    assert working.startswith("(7,000,000,000 x 1,024,000,000)^0.4 = ")
    assert auto_tokens_per_update(64, 100, 10**9)[0] == 5 * 64
    options = [*given, "model.preset=nano", "train.tokens_per_update=auto", "train.steps=2"]
    run = llmx.run(overrides=options, tokenizer="char", logger=["jsonl"], out=tmp_path / "r")
    parameters = sum(p.numel() for p in run.parameters())
    expected = auto_tokens_per_update(64, run.train_rows.rows_per_epoch, parameters)[0]
    assert run.recipe.train.tokens_per_update == expected == run.sizes.rows * 64
    longer = [*options, "train.steps=3"]
    assert (
        llmx.run(overrides=longer, tokenizer="char", logger=["jsonl"], out=tmp_path / "r", resume=True).state.step == 3
    )


def test_a_plan_knows_the_folder(llama: Path, given: list[str]) -> None:
    """A dry run reads the config alone, counts adapters, and shows how an update came to its size."""
    from llmx.plan import make_plan

    options = [*given, f"model.pretrained={llama}", "train.tokens_per_update=auto"]
    plain, adapted = (make_plan(resolve(*options, adapter=names)) for names in ([], ["lora"]))
    assert plain.parameters == sum(each.numel() for each in load_file(llama / "model.safetensors").values())
    assert adapted.parameters > plain.parameters
    assert adapted.weight_bytes < 0.6 * plain.weight_bytes
    assert f"update  ({plain.parameters:,} x " in plain.text(as_json=False)
