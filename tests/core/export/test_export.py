"""`llmx export`: from runs and folders to folders of Hugging Face and PEFT, and what it will not overwrite."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llmx
from llmx import CheckpointError, RecipeError
from llmx.export.write import export

MakeFolder = Callable[..., Path]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


def test_a_run_is_copied_as_it_is(char_run: Path, tmp_path: Path) -> None:
    """Without a type every file is the same, and loads."""
    done = export(char_run, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(char_run / "model")
    assert {path.name: size for path, size in done.files.items()} == {
        path.name: path.stat().st_size for path in (char_run / "model").iterdir()
    }
    assert export(char_run / "model", tmp_path / "again").nbytes == done.nbytes


def test_bf16_for_transformers_and_llmx(char_run: Path, tmp_path: Path) -> None:
    """The weights are the rounded ones, the config says so, and both load them; the tokenizer is still the model's."""
    from transformers import AutoModelForCausalLM

    export(char_run, tmp_path / "out", type="bf16")
    before, after = weights_of(char_run / "model"), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], each.to(torch.bfloat16)) for name, each in before.items())
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert found.dtype == torch.bfloat16
    ids = torch.arange(10, 30)[None]
    ours = llmx.load(tmp_path / "out").model
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).float(), found(ids).logits.float(), atol=0.15, rtol=0.05)


def test_shards_stay_shards(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Each file of weights is converted, the index names the new size, and what the dry run said comes true."""
    folder = make_folder("Qwen3", shards="200KB")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    planned = export(folder, tmp_path / "out", type="f16", dry_run=True)
    assert not (tmp_path / "out").exists()
    done = export(folder, tmp_path / "out", type="f16")
    assert done.files.keys() == planned.files.keys()
    sizes = {path.name: (size, planned.files[path]) for path, size in done.files.items() if "safetensors" in path.name}
    assert len(sizes) > 2
    for name, (size, expected) in sizes.items():
        assert size == pytest.approx(expected, abs=500), name  # a header may be shorter
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    stored = weights_of(tmp_path / "out")
    assert index["weight_map"].keys() == stored.keys()
    assert index["metadata"]["total_size"] == sum(2 * each.numel() for each in stored.values())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    assert not (tmp_path / "out" / "modeling.py").exists()


def test_a_lacking_shard_is_named(make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing is written for a folder that is not whole."""
    folder = altered(make_folder("Qwen3", shards="200KB"))
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks the shard {last.name}"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- steps of a run -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A run with checkpoints of steps 4, 8 and 12, evaluated at each; its model/ is of the last."""
    folder = tmp_path_factory.mktemp("runs") / "stepped"
    given = ["checkpoint.every=4", "checkpoint.keep_last=3", "checkpoint.export=last", "eval.every=4"]
    llmx.run(overrides=[*small, *given], tokenizer="char", logger=["jsonl"], out=folder)
    return folder


def test_weights_of_a_step(stepped: Path, tmp_path: Path) -> None:
    """A number, "last" and "best" give the weights of those checkpoints, as a whole model folder."""
    from llmx.train import checkpoint

    best = checkpoint.load(stepped / "checkpoints" / "step-00000012")[1]["train"]["best_step"]
    for step, number in (("4", 4), ("last", 12), ("best", best)):
        out = tmp_path / step
        export(stepped, out, step=step)
        trained = load_file(stepped / "checkpoints" / f"step-{number:08d}" / "model.safetensors")
        stored = weights_of(out)
        assert all(torch.equal(each, trained[name]) for name, each in stored.items())
        assert len(llmx.load(out).generate("The", max_new_tokens=4)) > 0
    assert not torch.equal(
        weights_of(tmp_path / "4")["model.norm.weight"], weights_of(tmp_path / "last")["model.norm.weight"]
    )
    assert files_of(tmp_path / "last")["config.json"] == files_of(stepped / "model")["config.json"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_averaged_weights_are_those_of_the_end(small: list[str], tmp_path: Path) -> None:
    """A run with `ema` exports `model/`, the average, by default; a step gives the weights as they were trained."""
    overrides = [*small, "train.steps=4", "callback.ema.decay=0.9"]
    run = llmx.run(overrides=overrides, tokenizer="char", callback=["ema"], logger=["jsonl"], out=tmp_path / "r")
    export(tmp_path / "r", tmp_path / "out")
    export(tmp_path / "r", tmp_path / "last", step="last")
    norm = "model.norm.weight"
    model, out, last = (load_file(tmp_path / at / "model.safetensors")[norm] for at in ("r/model", "out", "last"))
    assert torch.equal(out, model)
    assert torch.equal(last, run.module.state_dict()[norm])
    assert not torch.equal(out, last)


def test_a_run_that_has_not_ended(stepped: Path, tmp_path: Path) -> None:
    """The line says how to get its weights; with that they are its newest."""
    copy = tmp_path / "run"
    shutil.copytree(stepped, copy)
    shutil.rmtree(copy / "model")
    with pytest.raises(RecipeError, match=r"has no model/.*--step last"):
        export(copy, tmp_path / "out")
    export(copy, tmp_path / "out", step="last")
    assert weights_of(tmp_path / "out").keys() == weights_of(stepped / "model").keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": "5"}, r"--step 5: .* kept no checkpoint of step 5 \(kept: 4, 8, 12\)"),
        ({"type": "q4_0"}, r"--type q4_0: is no type of the format hf \(known: f32, bf16, f16\)"),
        ({"format": "peft"}, r"has no adapter in PEFT's form"),
        ({"format": "gguf"}, r"ends in \.gguf"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], message: str, stepped: Path, tmp_path: Path) -> None:
    """One plain line each, and nothing written."""
    with pytest.raises(RecipeError, match=message):
        export(stepped, tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_a_folder_has_no_steps(char_run: Path, tmp_path: Path) -> None:
    """Only a run has; and a folder that is not there is said to be so."""
    with pytest.raises(RecipeError, match=r"--step best: .*model is no run folder"):
        export(char_run / "model", tmp_path / "out", step="best")
    with pytest.raises(RecipeError, match=r"nowhere: no such folder"):
        export(tmp_path / "nowhere", tmp_path / "out")


# --- what is there --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(char_run: Path, tmp_path: Path) -> None:
    """An export that is there needs --force; anything else is never replaced."""
    export(char_run, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"out: is there: add --force"):
        export(char_run, tmp_path / "out", type="bf16")
    assert (tmp_path / "out" / "mine.txt").exists()
    export(char_run, tmp_path / "out", type="bf16", force=True)
    assert next(iter(weights_of(tmp_path / "out").values())).dtype == torch.bfloat16
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for out in (other, char_run, char_run.parent, char_run / "model"):
        with pytest.raises(RecipeError, match=r"give another place"):
            export(char_run, out, force=True)
    assert (other / "notes.txt").read_text() == "mine"
    assert (char_run / "model" / "config.json").exists()


def test_what_is_there_stays_when_an_export_fails(
    make_folder: MakeFolder, altered: Callable[..., Path], tmp_path: Path
) -> None:
    """The old export is replaced by a whole one or not at all."""
    from safetensors.torch import save_file

    folder = altered(make_folder("Qwen2"))
    for out in (tmp_path / "out", tmp_path / "out.gguf"):
        export(folder, out)
    before = files_of(tmp_path / "out"), (tmp_path / "out.gguf").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = 1e6
    tensors["lm_head.weight"][:] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for out in (tmp_path / "out", tmp_path / "out.gguf"):
        with pytest.raises(CheckpointError, match="f16"):
            export(folder, out, type="f16", force=True)
    assert (files_of(tmp_path / "out"), (tmp_path / "out.gguf").read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["altered", "out", "out.gguf"]


def test_an_adapter_is_copied(char_run: Path, tmp_path: Path) -> None:
    """What PEFT reads is copied, and what only llmx needs to go on is left out."""
    run = tmp_path / "run"
    shutil.copytree(char_run, run)
    (run / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "trained.safetensors"):
        (run / "adapter" / name).write_text(name)
    done = export(run, tmp_path / "out", format="peft")
    assert sorted(path.name for path in done.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (tmp_path / "out" / "adapter_model.safetensors").read_text() == "adapter_model.safetensors"
    with pytest.raises(RecipeError, match="add --force"):
        export(run, tmp_path / "out", format="peft")
    with pytest.raises(RecipeError, match="--type bf16"):
        export(run, tmp_path / "out", format="peft", type="bf16", force=True)


def test_the_command(char_run: Path, tmp_path: Path, llmx_cli: Callable[..., CompletedProcess[str]]) -> None:
    """The ending chooses the format; one line tells the path and the size; a dry run writes nothing."""
    out = tmp_path / "m.gguf"
    planned = llmx_cli("export", char_run, out, "--type", "q8_0", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert re.fullmatch(rf"{out}: [\d.]+ kB\n{out}: [\d.]+ kB would be written\n", planned.stdout)
    assert not out.exists()
    done = llmx_cli("export", char_run, out, "--type", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out}: {out.stat().st_size / 1000:,.1f} kB\n"
    again = llmx_cli("export", char_run, out)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"llmx: {out}: is there: add --force to replace it, or give another place\n"
    odd = llmx_cli("export", char_run, out, "--step", "first")
    assert (odd.returncode, odd.stderr) == (2, "llmx: --step first: give best, last, or the number of a step\n")
