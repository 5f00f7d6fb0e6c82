"""A plan says beforehand what a run then takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import llmx
from llmx.api import layers_of
from llmx.errors import RecipeError
from llmx.plan import Plan, make_plan
from llmx.plan import update as updates
from llmx.plan.track import Tracker
from llmx.plan.update import a_batch, plan_update, tensors_of
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.sections import size_bytes
from llmx.train.memory import recompute_blocks

Cli = Any

CPU = torch.device("cpu")
QWEN = ["model.name=qwen3", "model.preset=tiny", "train.precision=fp32"]
HOOKS = """
from pathlib import Path
from llmx import hookimpl

@hookimpl
def llmx_after_run(run):
    status = Path("/proc/self/status").read_text()
    Path(run.folder, "peak").write_text(status.partition("VmHWM:")[2].split()[0])
"""
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def resolve(*overrides: str, **names: Any) -> Recipe:
    return Recipe.resolve(layers_of(None, overrides=overrides, **names), Registry())


def planned(*overrides: str, **names: Any) -> Plan:
    return make_plan(resolve(*overrides, **names))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A Qwen3 of 24 M parameters in a Hugging Face folder."""
    out = tmp_path_factory.mktemp("base") / "run"
    options = ["model.name=qwen3", "model.preset=medium", "data.sequence_length=64", "train.tokens_per_update=64"]
    llmx.run(
        overrides=[f"data.path={corpus}", *options, "train.steps=1", "generate.samples=0"], tokenizer="char", out=out
    )
    return out / "model"


SHAPES = {
    "tinyllm": ["tokenizer=char", "train.tokens_per_update=4096"],
    "qwen3": ["tokenizer=char", "model.name=qwen3", "model.preset=medium", "data.sequence_length=512"],
    "checkpointing": ["tokenizer=char", "model.name=qwen3", "model.preset=medium", "data.sequence_length=512",
                      "train.checkpointing=block"],
    "selective": ["tokenizer=char", "model.name=qwen3", "model.preset=medium", "data.sequence_length=512",
                  "train.checkpointing=selective"],
    "micro": ["tokenizer=char", "model.name=qwen3", "model.preset=medium", "data.sequence_length=512",
              "train.micro_batch=2"],
    "lora": ["adapter=lora", "data.sequence_length=512"],
    "nf4": ["adapter=nf4,lora", "data.sequence_length=512", "train.checkpointing=block"],
}  # fmt: skip


@LINUX
@pytest.mark.parametrize(
    "shape", [each if each in ("tinyllm", "nf4") else pytest.param(each, marks=pytest.mark.long) for each in SHAPES]
)
def test_a_run_takes_the_planned_memory(shape: str, base: Path, corpus: Path, llmx_cli: Cli, tmp_path: Path) -> None:
    """Within a tenth, each in a process of its own: all that the process holds when it holds most."""
    if "nf4" in shape:
        pytest.importorskip("bitsandbytes")
    (tmp_path / "hooks.py").write_text(HOOKS)
    options = [f"data.path={corpus}", "train.steps=3", "train.tokens_per_update=4096", *SHAPES[shape]]
    options += [] if "tokenizer=char" in options else [f"model.pretrained={base}"]
    options += ["eval.tokens=2048", "generate.samples=0"]
    plan = llmx_cli("run", "--dry-run", "--json", *options)
    assert plan.returncode == 0, plan.stderr
    done = llmx_cli("run", *options, "--out", tmp_path / "run", "--hooks", tmp_path / "hooks.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(plan.stdout)["memory_bytes"]
    assert found == pytest.approx(int((tmp_path / "run" / "peak").read_text()) * 1024, rel=0.1)


@pytest.mark.parametrize("checkpointing", ["none", "block", "selective"])
@pytest.mark.parametrize("several", [False, True])
def test_a_few_blocks_tell_of_all(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, checkpointing: str, several: bool
) -> None:
    """What is reckoned from two and four blocks is what all of them take."""
    recipe = resolve(f"data.path={corpus}", *QWEN, "model.layers=7", f"train.checkpointing={checkpointing}")
    short = plan_update(recipe, 300, CPU, "fp32", 2, 64, several=several)
    monkeypatch.setattr(updates, "MORE", 99)
    whole = plan_update(recipe, 300, CPU, "fp32", 2, 64, several=several)
    assert attrs.astuple(short) == pytest.approx(attrs.astuple(whole), rel=0.005)
    assert short.peak == pytest.approx(whole.peak, rel=0.002)


def test_stand_ins_take_what_tensors_take(corpus: Path) -> None:
    """A real update holds the same bytes, forward and backward, and counts the same operations."""
    recipe = resolve(f"data.path={corpus}", *QWEN)
    update = plan_update(recipe, 300, CPU, "fp32", 2, 64, several=False)
    model = recipe.model.build(vocab_size=300)
    recompute_blocks(model, "none")
    batch = a_batch(2, 64, CPU)
    with Tracker(tensors_of(model)) as tracker:
        loss = recipe.objective.build()(model, batch)
        kept = tracker.held
        (loss / 1).backward()
    assert update.kept == pytest.approx(kept, rel=0.01)
    assert update.peak == pytest.approx(max(tracker.history), rel=0.01)
    assert update.gradients == sum(each.numel() * 4 for each in model.parameters())
    assert update.flops == tracker.flops
    assert update.flops == pytest.approx(model.flops_per_token(64) * 128, rel=0.15)  # whole score matrices, not half


def test_packed_weights_count_packed(base: Path, corpus: Path) -> None:
    """4 bits a weight and its scales, in a fresh model of shapes alone."""
    pytest.importorskip("bitsandbytes")
    given = [f"data.path={corpus}", f"model.pretrained={base}", "data.sequence_length=64", "train.tokens_per_update=64"]
    dense, packed = (planned(*given, adapter=names).memory.weights for names in (["lora"], ["nf4", "lora"]))
    linear = sum(v for k, v in dense.items() if k.startswith("frozen")) - sum(
        v for k, v in packed.items() if k.startswith("frozen") and "uint8" not in k
    )
    width = 2 if "frozen bfloat16" in dense else 4
    assert packed["frozen uint8"] == pytest.approx(linear / width * (0.5 + 1 / 64), rel=0.02)


def test_what_to_change_fits(corpus: Path) -> None:
    """The override that a plan names brings the run below the limit; what costs nothing is named first."""
    given = [f"data.path={corpus}", *QWEN, "data.sequence_length=128", "train.tokens_per_update=16384"]
    whole = planned(*given, tokenizer="char")
    assert whole.advice is None
    limit = whole.memory_bytes - whole.activation_bytes // 2
    tight = planned(*given, f"plan.memory_limit={limit}", tokenizer="char")
    assert tight.advice is not None
    assert tight.advice.fits
    (named,) = tight.advice.overrides
    assert named.startswith("train.micro_batch=")
    assert f"does not fit; with {named} it takes" in tight.text(as_json=False)
    again = planned(*given, f"plan.memory_limit={limit}", *tight.advice.overrides, tokenizer="char")
    assert again.activation_bytes < 0.6 * whole.activation_bytes
    small = planned(*given, "plan.memory_limit=1MiB", tokenizer="char").advice
    assert small is not None
    assert not small.fits
    assert small.overrides[:2] == ("train.micro_batch=1", "train.checkpointing=block")


def test_shorter_rows_are_more_of_them(corpus: Path) -> None:
    """The tokens of an update stay, so that what is told of shorter rows is what a run with them takes."""
    given = [f"data.path={corpus}", *QWEN, "model.context_length=2048", "data.sequence_length=2048"]
    given += ["train.tokens_per_update=2048", "train.checkpointing=block"]
    long = planned(*given, tokenizer="char")
    limit = long.memory_bytes - long.activation_bytes // 2
    tight = planned(*given, f"plan.memory_limit={limit}", tokenizer="char").advice
    assert tight is not None
    assert any(each.startswith("data.sequence_length=") for each in tight.overrides)
    again = planned(*given, *tight.overrides, tokenizer="char")
    assert again.activation_bytes < 0.6 * long.activation_bytes
    assert again.tokens_per_update == long.tokens_per_update


def test_what_is_kept_is_counted(corpus: Path, base: Path, tmp_path: Path) -> None:
    """A checkpoint of each epoch, and the whole model where an adapter that was read, or a packed base, is merged."""
    pytest.importorskip("bitsandbytes")
    given = [f"data.path={corpus}", f"model.pretrained={base}", "data.sequence_length=64", "train.tokens_per_update=64"]
    run = llmx.run(overrides=[*given, "train.steps=1", "generate.samples=0"], adapter=["lora"], out=tmp_path / "r")
    read = f"adapter.lora.pretrained={run.folder / 'adapter'}"
    whole = planned(*given, adapter=["lora"]).disk.model
    assert planned(*given, read, adapter=["lora"]).disk.model == whole
    packed = planned(*given, "checkpoint.merge=true", adapter=["nf4", "lora"]).disk.model
    assert packed == pytest.approx(whole, rel=0.01)
    told = planned(*given, "train.epochs=20", "checkpoint.every_epoch=true", adapter=["lora"]).disk
    assert told.checkpoints >= 20


def test_a_run_over_its_limit_does_not_start(small: list[str], llmx_cli: Cli, tmp_path: Path) -> None:
    """One line, and no folder."""
    done = llmx_cli("run", *small, "plan.memory_limit=64MiB", "tokenizer=char", "--out", tmp_path / "r")
    assert done.returncode == 2
    assert re.search(r"plan\.memory_limit = 64MiB: the run would take about \d+ MiB; even with train", done.stderr)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("given", "size"), [("7.5GiB", 7.5 * 2**30), ("512 MiB", 2**29), ("8GB", 8e9), (1000, 1000), ("12", 12)]
)
def test_sizes(given: str | int, size: float) -> None:
    """In powers of 1024 or of 1000, or bytes."""
    assert size_bytes(given) == size


@pytest.mark.parametrize("given", ["8 gigs", "-1", "0", "GiB", '""'])
def test_what_is_no_size(given: str) -> None:
    """The place and what is wanted."""
    with pytest.raises(RecipeError, match=r"plan\.memory_limit: must be a size, such as"):
        resolve(f"plan.memory_limit={given}")


def test_the_plan_shows_how_numbers_came(corpus: Path) -> None:
    """Rates and updates by a law with their working, time with what was timed, all of it in JSON too."""
    given = [f"data.path={corpus}", *QWEN, "data.sequence_length=64", "train.tokens_per_update=auto"]
    plan = planned(*given, "optimizer.lr=auto", tokenizer="char")
    text = plan.text(as_json=False)
    assert f"5e-5 x ({plan.parameters:,} / 7e9)^-0.25" in text
    assert ")^0.4 = " in text
    assert "a block's forward and backward of" in text
    assert plan.seconds > 0
    told = json.loads(plan.text(as_json=True))
    assert told["memory"]["gradients"] == 4 * plan.parameters
    assert told["learning_rates"]["decay"][0] == pytest.approx(5e-5 * (plan.parameters / 7e9) ** -0.25)
    assert told["disk"]["checkpoint"] == pytest.approx(12 * plan.parameters, rel=0.01)


def test_an_update_of_more_than_an_epoch_is_told(corpus: Path) -> None:
    """Rows are read twice then in one step, which few want."""
    given = [f"data.path={corpus}", *QWEN, "data.sequence_length=64", "train.steps=2"]
    text = "an update is more than an epoch: lower train.tokens_per_update"
    assert text not in planned(*given, "train.tokens_per_update=64", tokenizer="char").text(as_json=False)
    tokens = 64 * 2 ** (corpus.stat().st_size // 64).bit_length()
    long = planned(*given, f"train.tokens_per_update={tokens}", "train.micro_batch=1", tokenizer="char")
    assert text in long.text(as_json=False)


@LINUX
def test_a_large_model_is_planned_in_little_memory(corpus: Path) -> None:
    """Qwen3-8B in 4 bits, of which no weight is ever made."""
    pytest.importorskip("bitsandbytes")
    code = """
import sys
from llmx.cli import main
try:
    main(sys.argv[1:])
finally:
    print(next(line for line in open("/proc/self/status") if "VmHWM" in line), file=sys.stderr)
"""
    given = ["model.name=qwen3", "model.preset=8b", "adapter=nf4,lora", "adapter.lora.rank=64", "tokenizer=char",
             "data.sequence_length=1024", "train.tokens_per_update=1024", "train.checkpointing=block"]  # fmt: skip
    command = [sys.executable, "-c", code, "run", "--dry-run", "--json", f"data.path={corpus}", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.partition("VmHWM:")[2].split()[0]) < 1_000_000
    weights = json.loads(done.stdout)["memory"]["weights"]
    assert weights["frozen uint8"] == pytest.approx(6.95e9 * (0.5 + 1 / 64), rel=0.02)
