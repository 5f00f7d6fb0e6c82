"""Runs with adapters on a model folder: what resumes, what is merged, and what that costs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

import llmx
from llmx import CheckpointError, RecipeError, StoppedError
from llmx.assembly import assemble
from llmx.recipe import Recipe
from llmx.registry import Registry

STOP = """
import os, signal
from llmx import hookimpl

@hookimpl
def llmx_after_step(run):
    if run.state.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
"""


def resolve(*overrides: str, **names: Any) -> Recipe:
    from llmx.api import layers_of

    return Recipe.resolve(layers_of(overrides=overrides, **names))


def ids(vocab: int) -> torch.Tensor:
    return torch.arange(24)[None] * 7 % vocab


def lora(given: list[str], llama: Path, *more: str) -> dict[str, Any]:
    few = ["checkpoint.every=2", "adapter.lora.rank=4", "adapter.lora.dropout=0.1", "train.steps=6"]
    return {"overrides": [*given, f"model.pretrained={llama}", *few, *more], "logger": ["jsonl"], "adapter": ["lora"]}


def test_an_adapted_base_resumes_bit_for_bit(llama: Path, given: list[str], tmp_path: Path) -> None:
    """Stopped by SIGTERM and resumed it ends the same; checkpoints hold the adapter alone."""
    through = llmx.run(out=tmp_path / "through", **lora(given, llama))
    (tmp_path / "stop.py").write_text(STOP)
    with pytest.raises(StoppedError, match="stopped after step 3 of 6"):
        llmx.run(out=tmp_path / "r", hooks=[str(tmp_path / "stop.py")], **lora(given, llama))
    (tmp_path / "stop.py").write_text("from llmx import hookimpl\n@hookimpl\ndef llmx_after_run(run): pass\n")
    resumed = llmx.run(tmp_path / "r", resume=True)
    ends = [run.module.state_dict() for run in (through, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    trained = {name for name, p in through.module.named_parameters() if p.requires_grad}
    kept = load_file(tmp_path / "r" / "checkpoints" / "step-00000006" / "model.safetensors")
    assert kept.keys() == trained
    assert sum(each.numel() for each in kept.values()) < 0.2 * sum(p.numel() for p in through.module.parameters())


def test_a_changed_base_is_refused(llama: Path, given: list[str], tmp_path: Path) -> None:
    """One weight of the base altered makes it another model, for resuming and for using the adapter."""
    base = tmp_path / "base"
    shutil.copytree(llama, base)
    llmx.run(out=tmp_path / "r", **lora(given, base, "checkpoint.merge=false"))
    llmx.load(tmp_path / "r")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the weights of .*base changed since the run began"):
        llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=8"])
    with pytest.raises(CheckpointError, match=r"the weights of .*base changed since the run began"):
        llmx.load(tmp_path / "r")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("merge", ["true", "false"])
def test_adapters_are_merged_or_kept_apart(llama: Path, given: list[str], tmp_path: Path, merge: str) -> None:
    """Either way `llmx.load` of the run computes what the run's own model does, and peft opens `adapter/`."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = llmx.run(out=tmp_path / "r", **lora(given, llama, f"checkpoint.merge={merge}"))
    assert (tmp_path / "r" / "model").exists() == (merge == "true")
    found = llmx.load(tmp_path / "r")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "r" / "adapter")
    run.module.eval()
    with torch.no_grad():
        expected = run.model(ids(260))
        torch.testing.assert_close(found.model(ids(260)), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(theirs(ids(260)).logits, expected, atol=1e-5, rtol=1e-4)
    assert llmx.run(tmp_path / "r", resume=True).state.step == 6  # it has ended: nothing is done again


def test_a_lora_that_goes_on_is_merged(llama: Path, given: list[str], tmp_path: Path) -> None:
    """It does not begin as its base, and is none the less no quantiser: the run ends with `model/`."""
    begun = llmx.run(out=tmp_path / "begun", **lora(given, llama, "train.steps=1"))
    more = [f"adapter.lora.pretrained={begun.folder / 'adapter'}", "train.steps=1"]
    options = lora(given, llama, *more)
    options["overrides"] = [each for each in options["overrides"] if "lora.rank" not in each]
    run = llmx.run(out=tmp_path / "r", **options)
    assert not run.adapters[0].identity
    assert (tmp_path / "r" / "model").exists()


def test_a_quantised_base_is_not_merged_unless_asked(
    llama: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is kept apart and loaded with its adapters; asked for, merging says what it costs."""
    pytest.importorskip("bitsandbytes")
    options = lora(given, llama, "train.checkpointing=block")
    options["adapter"] = ["nf4", "lora"]
    run = llmx.run(out=tmp_path / "r", **options)
    assert not (tmp_path / "r" / "model").exists()
    run.module.eval()
    with torch.no_grad():
        assert torch.equal(llmx.load(tmp_path / "r").model(ids(260)), run.model(ids(260)))
    again = llmx.run(tmp_path / "r", resume=True, overrides=["checkpoint.merge=true", "train.steps=7"])
    said = capsys.readouterr().err
    costs = re.search(r"merged into the quantised base, the held-out loss is (\d\.\d+), before (\d\.\d+)", said)
    assert costs is not None
    assert float(costs[2]) == pytest.approx(again.state.best_loss or 0, abs=1e-3)
    assert float(costs[1]) == pytest.approx(float(costs[2]), abs=0.2)
    again.module.eval()
    with torch.no_grad():
        merged, applied = llmx.load(tmp_path / "r").model(ids(260)), again.model(ids(260))
    torch.testing.assert_close(merged, applied, atol=1e-4, rtol=1e-3)


def test_the_cost_of_merging_is_told_where_it_says_something(
    llama: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for pairs, whose loss is against the model of before. On an accelerator without room for it the host measures
    both on fewer tokens."""
    from llmx.train import cost
    from llmx.train.adapt import merged
    from llmx.train.evaluate import Measured

    pytest.importorskip("bitsandbytes")
    options = lora(given, llama)
    run = assemble(resolve(*options["overrides"], adapter=["nf4", "lora"]), Registry(), tmp_path / "x")
    model = merged(run.model, zip(run.recipe.adapters, run.adapters, strict=True))

    class Pairs:
        pairs = True

        def __call__(self, model: Any, batch: Any) -> torch.Tensor:
            raise AssertionError("measured")

    cost.tell_cost(attrs.evolve(run, objective=Pairs()), model)
    assert capsys.readouterr().err == ""
    cost.tell_cost(run, model)
    assert re.fullmatch(r"llmx: merged into the quantised base, .*\n", capsys.readouterr().err)
    read = []

    def measure(run: Any) -> Measured:
        read.append((run.recipe.eval.tokens, run.device.type))
        return Measured(0.0, None, {})

    monkeypatch.setattr(cost, "evaluate", measure)
    cost.tell_cost(attrs.evolve(run, device=torch.device("meta")), model)
    assert read == [(8192, "meta"), (8192, "cpu")]
    assert "does not fit the device: measuring it on the CPU" in capsys.readouterr().err


def test_packed_weights_count_as_what_they_stand_for(llama: Path, given: list[str], tmp_path: Path) -> None:
    """The laws go by the size of the model, not by the bytes it is packed in."""
    from llmx.nn import count_weights

    pytest.importorskip("bitsandbytes")
    options = [*given, f"model.pretrained={llama}", "train.tokens_per_update=auto", "optimizer.lr=auto"]
    runs = [
        assemble(resolve(*options, adapter=names), Registry(), tmp_path / "x") for names in (["lora"], ["nf4", "lora"])
    ]
    held = sum(each.numel() for each in runs[0].module.parameters())
    assert [count_weights(run.module) for run in runs] == [held, held]
    assert sum(each.numel() for each in runs[1].module.parameters()) < held
    assert runs[0].recipe.train.tokens_per_update == runs[1].recipe.train.tokens_per_update
    rates = [group["lr"] for run in runs for group in run.optimizer.param_groups]
    assert rates == pytest.approx([5e-5 * (held / 7e9) ** -0.25] * len(rates))


def test_an_adapter_that_trains_nothing_is_refused(llama: Path, given: list[str], tmp_path: Path) -> None:
    """A frozen base alone would take its steps for nothing."""
    pytest.importorskip("bitsandbytes")
    recipe = resolve(*given, f"model.pretrained={llama}", adapter=["nf4"])
    with pytest.raises(RecipeError, match="adapter = nf4: leaves nothing to train: add one that trains, such as lora"):
        assemble(recipe, Registry(), tmp_path / "x")
