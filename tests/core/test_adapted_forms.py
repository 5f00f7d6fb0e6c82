"""Adapters over one base: they share its tensors, answer as the merged model does, and refuse what is not theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import llmx
from llmx import CheckpointError, RecipeError
from llmx.named import split_adapters


def ids(vocab: int = 260) -> torch.Tensor:
    return torch.arange(24)[None] * 7 % vocab


def lora_run(llama: Path, given: list[str], out: Path, *more: str) -> Path:
    options = [*given, f"model.pretrained={llama}", "adapter.lora.rank=4", "optimizer.lr=5e-2", *more]
    return llmx.run(overrides=options, adapter=["lora"], logger=["jsonl"], out=out).folder


@pytest.fixture(scope="module")
def runs(llama: Path, given: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two LoRA runs on one base, the first merged at its end and the second not."""
    root = tmp_path_factory.mktemp("adapters")
    first = lora_run(llama, given, root / "one", "train.seed=1")
    return first, lora_run(llama, given, root / "two", "train.seed=2", "checkpoint.merge=false")


def test_adapters_share_the_tensors_of_one_base(llama: Path, runs: tuple[Path, Path]) -> None:
    """Every frozen weight of a form lies where the base's does; what it adds is its own, and the base is as it was."""
    alone, loaded = llmx.load(llama), llmx.load(llama, adapters={"one": runs[0], "two": runs[1] / "adapter"})
    assert isinstance(loaded.model, nn.Module)
    places = {each.data_ptr() for each in loaded.model.parameters()}
    for form in loaded.adapted.values():
        assert isinstance(form, nn.Module)
        frozen = {name: each for name, each in form.named_parameters() if "lora_" not in name}
        added = [each for name, each in form.named_parameters() if "lora_" in name]
        assert {each.data_ptr() for each in frozen.values()} == places
        assert added
        assert not places & {each.data_ptr() for each in added}
    with torch.no_grad():
        base = loaded.model(ids())
        assert torch.equal(base, alone.model(ids()))
        assert (loaded.adapted["one"](ids()) - base).abs().max() > 1e-2
        assert (loaded.adapted["two"](ids()) - loaded.adapted["one"](ids())).abs().max() > 1e-2


def test_an_adapter_answers_as_the_merged_model(llama: Path, runs: tuple[Path, Path]) -> None:
    """Over the base, merged into `model/`, or as the run that keeps it apart: one model, to 1e-4 in its logits."""
    loaded = llmx.load(llama, adapters={"one": runs[0], "two": runs[1]})
    with torch.no_grad():
        for name, run in zip(("one", "two"), runs, strict=True):
            whole = llmx.load(run)
            torch.testing.assert_close(loaded.adapted[name](ids()), whole.model(ids()), atol=1e-4, rtol=1e-4)
    greedy = llmx.load(runs[0], sampler=["greedy"]).generate("The ", max_new_tokens=12)
    over = llmx.load(llama, sampler=["greedy"], adapters={"one": runs[0]})
    asked = over.request("The ", max_new_tokens=12, model="one")
    assert over.new_engine().submit(asked).wait().text == greedy


def test_one_engine_answers_by_base_and_adapters_at_once(llama: Path, runs: tuple[Path, Path]) -> None:
    """Requests for different models share an engine, and each answer is that of its model alone."""
    loaded = llmx.load(llama, sampler=["greedy"], adapters={"one": runs[0], "two": runs[1]})
    engine = loaded.new_engine()
    names = ("base", "one", "two", "one")
    asked = [loaded.request("So ", max_new_tokens=10, model=name, logprobs=0) for name in names]
    together = [answer.wait().tokens for answer in [engine.submit(each) for each in asked]]
    alone = [loaded.new_engine().submit(each).wait().tokens for each in asked]
    assert [[token.id for token in each] for each in together] == [[token.id for token in each] for each in alone]
    told = [[token.logprob for token in each] for each in together]
    for each, by_itself in zip(told, alone, strict=True):
        assert each == pytest.approx([token.logprob for token in by_itself], abs=1e-5)
    assert told[1] == told[3]
    assert min(abs(told[0][0] - told[1][0]), abs(told[1][0] - told[2][0])) > 1e-3


def test_what_is_no_adapter_is_refused(llama: Path, char_run: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder without one, a kind that nothing reads, and an adapter of another base: a line each."""
    with pytest.raises(RecipeError, match=r"adapter x: .*: holds no adapter_config\.json: give a run with adapter/"):
        llmx.load(llama, adapters={"x": char_run})
    other = tmp_path / "other"
    shutil.copytree(runs[0] / "adapter", other)
    config = (other / "adapter_config.json").read_text()
    (other / "adapter_config.json").write_text(config.replace('"LORA"', '"LOHA"'))
    with pytest.raises(RecipeError, match=r"adapter x: .*peft_type.*loha"):
        llmx.load(llama, adapters={"x": other})
    with pytest.raises(CheckpointError, match=r"adapter x: .*another base|shape"):
        llmx.load(char_run, adapters={"x": runs[0] / "adapter"})
    with pytest.raises(RecipeError, match=r"^adapter 'base': so the model without an adapter is called"):
        llmx.load(llama, adapters={"base": runs[0] / "adapter"})


def test_adapters_have_names_of_their_own(tmp_path: Path) -> None:
    """A name for a folder without one, also with = in it; neither two of one name nor that of the model."""
    (tmp_path / "lr=1").mkdir()
    assert split_adapters([str(tmp_path / "lr=1")]) == {"lr=1": tmp_path / "lr=1"}
    assert split_adapters(["a=x/y", str(tmp_path)]) == {"a": Path("x/y"), tmp_path.name: tmp_path}
    for given, message in [
        (["a=x", "a=y"], "^--adapter: 'a' is the name of x and of y: give another"),
        (["base=x"], "^adapter 'base': so the model"),
        (["=x"], "^--adapter '=x': must be NAME=FOLDER"),
        ([""], "^--adapter '': must be NAME=FOLDER, or a folder"),
        (["a b=x"], "^--adapter 'a b=x': must be NAME=FOLDER, the name without spaces"),
    ]:
        with pytest.raises(RecipeError, match=message):
            split_adapters(given)


def test_an_adapter_of_another_text_is_refused(
    llama: Path, given: list[str], runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another tokenizer or another template than the base's would be another language; other weights are told."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"query": "Who are you?", "response": "I am Bo."}\n' * 40)
    rows = [f"data.path={chats}", "data.held_out=0"]
    taught = lora_run(llama, [each for each in given if "data.path" not in each], tmp_path / "t", *rows,
                      "template.name=chatml")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"chat template than the base has: load the run itself, as in llmx"):
        llmx.load(llama, adapters={"x": taught})
    assert llmx.load(taught).template is not None
    tokenizer = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    shutil.copytree(runs[0], tmp_path / "run")
    tokenizer.write_text(tokenizer.read_text().replace("{", "{ ", 1))
    with pytest.raises(CheckpointError, match="the tokenizer's files are not those the model was trained with"):
        llmx.load(llama, adapters={"x": tmp_path / "run"})
    assert capsys.readouterr().err == ""
    llmx.load(runs[0], adapters={"one": runs[1]})
    assert "was trained on" in capsys.readouterr().err


def test_a_folder_of_transformers_brings_its_chat_template(llama: Path) -> None:
    """No llmx.json: the template in the folder writes a chat as transformers does, and ends its turns."""
    from transformers import AutoTokenizer

    loaded = llmx.load(llama)
    prompt = loaded.question("Who <|im_end|>?")
    theirs = AutoTokenizer.from_pretrained(llama)
    said = [{"role": "user", "content": "Who?"}]
    expected = theirs.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert list(loaded.request(loaded.question("Who?")).ids) == expected
    assert loaded.tokenizer.special_id("<|im_end|>") in loaded.request(prompt).stop_ids
    # what a user types never becomes a token of the markup
    assert list(loaded.request(prompt).ids).count(loaded.tokenizer.special_id("<|im_end|>")) == 1


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_packed_weights_are_held_once(llama: Path, runs: tuple[Path, Path], weights: llmx.api.Weights) -> None:
    """Base and forms read the same packed weights, and answer near what they do unpacked."""
    from llmx.nn.packed import PackedLinear

    plain = llmx.load(llama, adapters={"one": runs[0]})
    packed = llmx.load(llama, adapters={"one": runs[0]}, weights=weights)
    layers = [
        {id(each) for each in form.modules() if isinstance(each, PackedLinear)}
        for form in (packed.model, packed.adapted["one"])
        if isinstance(form, nn.Module)
    ]
    assert len(layers[0]) == 2 * 7 + 1  # two blocks and the head
    assert layers[0] == layers[1]
    with torch.inference_mode():
        for ours, theirs in ((packed.model, plain.model), (packed.adapted["one"], plain.adapted["one"])):
            flat = [each(ids()).flatten().float() for each in (ours, theirs)]
            assert torch.cosine_similarity(*flat, dim=0) > 0.999
