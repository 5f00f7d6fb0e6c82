"""Training: the update is the one the recipe asks for, and a run that was stopped ends as if it never had been."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import llmx
from llmx import CheckpointError, DivergedError, RecipeError, StoppedError
from llmx.train import checkpoint, tree


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run(small: list[str], out: Path, *overrides: str, **names: Any) -> Any:
    names = {"tokenizer": "char", "logger": ["jsonl"], **names}
    return llmx.run(overrides=[*small, *overrides], out=out, **names)


def test_metrics_have_the_names_that_scripts_rely_on(char_run: Path) -> None:
    """Every step and every evaluation is a row; the loss falls."""
    found = rows(char_run)
    steps = [row for row in found if "train/loss" in row]
    evals = [row for row in found if "val/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert {"step", "tokens", "train/loss", "lr", "grad_norm", "tokens_per_s"} <= steps[0].keys()
    assert {"step", "tokens", "val/loss"} <= evals[0].keys()
    assert steps[-1]["tokens"] == 12 * 512
    assert evals[-1]["step"] == 12
    assert steps[-1]["train/loss"] < steps[0]["train/loss"] - 0.5


def test_the_run_folder_is_whole(char_run: Path) -> None:
    """What the plan promises is there, and nothing temporary."""
    names = {path.name for path in char_run.iterdir()}
    assert names == {"recipe.toml", "lock.json", "tokenizer", "metrics.jsonl", "checkpoints", "model", "report.html"}
    lock = json.loads((char_run / "lock.json").read_text())
    assert lock["plugins"]["llmx"]["version"] == llmx.__version__
    assert not list(char_run.rglob(".tmp-*"))


def test_a_run_equals_a_plain_loop(small: list[str], tmp_path: Path) -> None:
    """Losses and weights equal those of a loop written out with torch alone, on the same rows (fp32)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = run(small, tmp_path / "r", "train.steps=5", "optimizer.weight_decay=0.1")
    from llmx.assembly import assemble
    from llmx.layers import file_layers
    from llmx.recipe import Recipe
    from llmx.registry import Registry

    registry = Registry()
    fresh = assemble(Recipe.resolve(file_layers(tmp_path / "r" / "recipe.toml"), registry), registry, tmp_path / "x")
    model = LlamaForCausalLM(LlamaConfig(**fresh.model.to_config(), attn_implementation="sdpa"))
    model.load_state_dict(fresh.model.state_dict(), strict=False)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-3, betas=(0.9, 0.95))
    for step, row in enumerate(row for row in rows(tmp_path / "r") if "train/loss" in row):
        for group in optimizer.param_groups:
            group["lr"] = row["lr"]
        batch = fresh.train_rows.batch(step * 8, 8)
        loss = F.cross_entropy(model(batch.ids_BT).logits.flatten(0, 1), batch.labels_BT.flatten())
        assert loss.item() == pytest.approx(row["train/loss"], abs=2e-5)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.item() == pytest.approx(row["grad_norm"], rel=1e-3)
        optimizer.step()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], atol=2e-4, rtol=0)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_make_the_same_update(small: list[str], tmp_path: Path, micro_batch: int) -> None:
    """The loss is normalised over the tokens that count in the update, however it is cut up."""
    same = ("train.steps=3", "optimizer.eps=1e-3")  # a large eps: Adam would blow up rounding where gradients are 0
    whole = run(small, tmp_path / "whole", *same)
    parts = run(small, tmp_path / "parts", *same, f"train.micro_batch={micro_batch}")
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], weight, atol=2e-6, rtol=0)
    losses = [[row["train/loss"] for row in rows(tmp_path / n) if "train/loss" in row] for n in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_one_seed_is_one_run(small: list[str], tmp_path: Path) -> None:
    """Twice the same recipe is bitwise the same model; another seed is another."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(small, tmp_path / name, f"train.seed={seed}", "train.steps=4")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") != sha256(tmp_path / "c")


def test_packed_documents_do_not_see_each_other() -> None:
    """A row of two documents has the logits of each alone."""
    from llmx_tinyllm import TinyLLMOptions
    from llmx_tinyllm.model import TinyLLM

    torch.manual_seed(0)
    model = TinyLLM(TinyLLMOptions(preset="nano"), vocab_size=50)
    first, second = torch.randint(50, (2, 1, 10)).unbind(0)
    documents = torch.tensor([[0] * 10 + [1] * 10])
    positions = torch.arange(10).repeat(2)[None]
    together = model(torch.cat([first, second], 1), documents_BT=documents, positions_BT=positions)
    torch.testing.assert_close(together[:, :10], model(first), atol=1e-6, rtol=0)
    torch.testing.assert_close(together[:, 10:], model(second), atol=1e-6, rtol=0)


# --- stop and resume ------------------------------------------------------------------------------------------------


def start_process(small: list[str], out: Path, *overrides: str) -> subprocess.Popen[str]:
    arguments = ["run", *small, "--tokenizer", "char", "--logger", "jsonl", "--out", str(out), *overrides]
    command = [sys.executable, "-m", "llmx", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Wait until a running process has logged a step."""
    for _ in range(1200):
        if (out / "metrics.jsonl").exists() and any(row["step"] >= step for row in _rows_so_far(out)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no step {step} within a minute")


def _rows_so_far(out: Path) -> list[dict[str, float]]:
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


LONGER = ("train.steps=60", "checkpoint.every=7", "eval.every=11")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_ends_as_one_that_ran_through(small: list[str], tmp_path: Path, signum: int) -> None:
    """SIGTERM, SIGINT or SIGKILL in the middle, then --resume: the same bytes, and metrics without a gap."""
    run(small, tmp_path / "through", *LONGER)
    process = start_process(small, tmp_path / "stopped", *LONGER)
    wait_for_step(process, tmp_path / "stopped", 20)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), err
    if signum != signal.SIGKILL:
        assert "go on with: llmx run" in err
    assert not (tmp_path / "stopped" / "model").exists()
    llmx.run(tmp_path / "stopped", resume=True)
    assert sha256(tmp_path / "stopped") == sha256(tmp_path / "through")
    for key in ("train/loss", "val/loss"):
        series = [[(r["step"], r[key]) for r in rows(tmp_path / n) if key in r] for n in ("through", "stopped")]
        assert series[0] == series[1]


@pytest.mark.long
def test_many_kills_change_nothing(small: list[str], tmp_path: Path) -> None:
    """Killed ten times at moments of chance, in the middle of a write too, a run still ends bitwise the same."""
    import random

    chance = random.Random(0)
    run(small, tmp_path / "through", *LONGER, "checkpoint.every=1")
    out = tmp_path / "killed"
    for _ in range(10):
        process = start_process(small, out, *LONGER, "checkpoint.every=1", "--resume")
        time.sleep(chance.uniform(2.5, 5))
        process.kill()
        process.communicate()
    llmx.run(
        overrides=[*small, *LONGER, "checkpoint.every=1"], tokenizer="char", logger=["jsonl"], out=out, resume=True
    )
    assert sha256(out) == sha256(tmp_path / "through")


def test_a_run_goes_on_past_its_end(small: list[str], tmp_path: Path) -> None:
    """`--resume train.steps=…` lengthens a finished run; at a constant rate it is bitwise the long one."""
    run(small, tmp_path / "long", "train.steps=8", "scheduler.warmup_steps=1", scheduler="constant")
    run(small, tmp_path / "short", "train.steps=4", "scheduler.warmup_steps=1", scheduler="constant")
    llmx.run(tmp_path / "short", resume=True, overrides=["train.steps=8"])
    assert sha256(tmp_path / "short") == sha256(tmp_path / "long")


def test_a_resume_that_would_be_another_run_is_refused(small: list[str], tmp_path: Path) -> None:
    """Model, data, tokenizer and seed cannot change on the way; the run is left as it was and still resumes."""
    run(small, tmp_path / "r", "train.steps=3")
    before = (tmp_path / "r" / "recipe.toml").read_text()
    changes = ["model.dim=128", "data.held_out=0.3", "train.seed=1", "optimizer.name=adam", "tokenizer.min_freq=2"]
    with pytest.raises(RecipeError) as caught:
        llmx.run(tmp_path / "r", resume=True, overrides=changes)
    for change in changes:
        assert change.split("=")[0] + " = " in str(caught.value)
    assert (tmp_path / "r" / "recipe.toml").read_text() == before
    assert llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=4"]).state.step == 4


def test_an_emptied_cache_is_filled_again(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text prepared again resumes, from a copy too; another text under the same name does not."""
    text = tmp_path / "t.txt"
    text.write_text("The same words again and again, and others. " * 300)
    run(small, tmp_path / "r", f"data.path={text}", "train.steps=3")
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "cache"))
    os.utime(text, (1, 1))
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=4"])
    text.write_text("Other words again and again, and the same. " * 300)
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "cache2"))
    with pytest.raises(CheckpointError, match="the data changed since the run began"):
        llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=5"])


def test_metrics_survive_a_resume_without_their_logger(small: list[str], tmp_path: Path) -> None:
    """Rows are cut by their step: none before the checkpoint is ever lost."""
    run(small, tmp_path / "r", "train.steps=3")
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=4"], logger=[])
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=5"], logger=["jsonl"])
    assert [row["step"] for row in rows(tmp_path / "r") if "train/loss" in row] == [1, 2, 3, 5]


def test_an_optimizer_that_counts_in_its_groups_resumes(small: list[str], tmp_path: Path) -> None:
    """What an optimizer keeps in its parameter groups comes back; only options that the recipe changed are new."""
    hooks = tmp_path / "counts.py"
    hooks.write_text(
        "from llmx import hookimpl\n@hookimpl\ndef llmx_before_run(run):\n"
        "    for group in run.optimizer.param_groups: group.setdefault('k', 0)\n"
        "@hookimpl\ndef llmx_before_update(run):\n"
        "    for group in run.optimizer.param_groups: group['k'] += 1\n"
    )
    run(small, tmp_path / "r", "train.steps=3", hooks=[str(hooks)])
    done = llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=5"], hooks=[str(hooks)])
    assert [group["k"] for group in done.optimizer.param_groups] == [5] * len(done.optimizer.param_groups)


def test_a_validation_loss_that_is_not_finite_stops(small: list[str], tmp_path: Path) -> None:
    """It is never the best, and nothing is exported."""
    with pytest.raises(DivergedError, match=r"step 1: the validation loss is (nan|inf)"):
        run(small, tmp_path / "r", "train.steps=1", "optimizer.lr=1e38")
    assert not (tmp_path / "r" / "model").exists()


def test_a_run_may_be_started_again_and_again(small: list[str], tmp_path: Path) -> None:
    """`--out DIR --resume` begins, goes on, and is done: one command for a machine that is taken away now and then."""
    for _ in range(3):
        done = run(small, tmp_path / "r", "train.steps=3", resume=True)
        assert done.state.step == 3


def test_a_resume_may_change_the_rate(small: list[str], tmp_path: Path) -> None:
    """`--resume optimizer.lr=…` trains on at the new rate; the optimizer's saved state does not bring back the old."""
    run(small, tmp_path / "r", "train.steps=4", scheduler="constant")
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=5", "optimizer.lr=0.125"])
    assert rows(tmp_path / "r")[-2]["lr"] == 0.125


def test_a_broken_checkpoint_is_passed_over(small: list[str], tmp_path: Path) -> None:
    """The newest checkpoint whose manifest holds is the one that is resumed."""
    run(small, tmp_path / "r", "checkpoint.every=4", "checkpoint.keep_last=3", "train.steps=12")
    before = sha256(tmp_path / "r")
    last = tmp_path / "r" / "checkpoints" / checkpoint.folder_name(12)
    data = bytearray((last / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (last / "model.safetensors").write_bytes(data)
    assert checkpoint.latest(tmp_path / "r" / "checkpoints") != last
    llmx.run(tmp_path / "r", resume=True)
    assert sha256(tmp_path / "r") == before


def test_a_run_with_damaged_checkpoints_alone_does_not_begin_anew(small: list[str], tmp_path: Path) -> None:
    """Nothing is overwritten: the user may have a copy to put back."""
    run(small, tmp_path / "r", "train.steps=3")
    for folder in (tmp_path / "r" / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        llmx.run(tmp_path / "r", resume=True)
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == before


def test_a_damaged_newer_checkpoint_goes_before_a_good_one(small: list[str], tmp_path: Path) -> None:
    """With keep_last = 1: a run that goes on from an older checkpoint keeps what it then writes."""
    run(small, tmp_path / "r", "train.steps=6", "checkpoint.every=2", "checkpoint.keep_last=2", "eval.every=6")
    (tmp_path / "r" / "checkpoints" / checkpoint.folder_name(6) / "state.json").write_text("{}")
    stop = tmp_path / "stop.py"
    stop.write_text("from llmx import hookimpl\n@hookimpl\ndef llmx_after_step(run): run.stop('now')\n")
    llmx.run(tmp_path / "r", resume=True, overrides=["checkpoint.keep_last=1"], hooks=[str(stop)])
    kept = sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir())
    assert checkpoint.folder_name(5) in kept
    assert checkpoint.folder_name(6) not in kept


def test_checkpoints_are_kept_as_asked(small: list[str], tmp_path: Path) -> None:
    """The newest `keep_last`, and the best besides."""
    done = run(small, tmp_path / "r", "checkpoint.every=2", "checkpoint.keep_last=2", "eval.every=4")
    kept = {path.name for path in (tmp_path / "r" / "checkpoints").iterdir()}
    assert {"step-00000010", "step-00000012"} <= kept
    assert kept <= {"step-00000010", "step-00000012", checkpoint.folder_name(done.state.best_step)}
    assert all(checkpoint.is_whole(tmp_path / "r" / "checkpoints" / name) for name in kept)


def test_the_best_weights_are_exported_when_asked(small: list[str], tmp_path: Path) -> None:
    """`checkpoint.export = "best"`: model/ holds the weights of the lowest validation loss, not the last."""
    hooks = tmp_path / "spoil.py"
    hooks.write_text(
        "import torch\nfrom llmx import hookimpl\n"
        "@hookimpl\ndef llmx_after_step(run):\n"
        "    if run.state.step == 9:\n"
        "        with torch.no_grad():\n"
        "            for p in run.parameters(): p.zero_()\n"
    )
    done = run(small, tmp_path / "r", "checkpoint.export=best", "eval.every=4", "optimizer.lr=1e-3", hooks=[str(hooks)])
    assert done.state.best_step == 8
    best, _ = checkpoint.load(tmp_path / "r" / "checkpoints" / "step-00000008")
    assert all(torch.equal(weight, best[name]) for name, weight in weights(tmp_path / "r").items())


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nothing_that_is_not_finite_reaches_the_weights(small: list[str], tmp_path: Path, what: str) -> None:
    """A NaN in the loss or in a gradient stops with code 4 after a checkpoint of the last good weights."""
    hooks = tmp_path / "nan.py"
    spoil = {
        "loss": "register_forward_hook(lambda module, args, out: out * float('nan'))",
        "gradient": "weight.register_hook(lambda grad: grad * float('nan'))",
    }[what]
    hooks.write_text(
        "from llmx import hookimpl\n@hookimpl\ndef llmx_before_step(run):\n"
        f"    if run.state.step == 5:\n        run.model.model.norm.{spoil}\n"
    )
    with pytest.raises(
        DivergedError, match=r"step 6: the (loss|gradient norm) is nan; the weights of step 5"
    ) as caught:
        run(small, tmp_path / "r", "train.steps=8", "eval.every=100", "checkpoint.every=100", hooks=[str(hooks)])
    assert caught.value.exit_code == 4
    saved, state = checkpoint.load(tmp_path / "r" / "checkpoints" / "step-00000005")
    assert state["train"]["step"] == 5
    assert all(weight.isfinite().all() for weight in saved.values())
    assert not (tmp_path / "r" / "model").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(small: list[str], tmp_path: Path, precision: str) -> None:
    """Losses of the reduced precisions follow fp32's; weights stay in fp32."""
    done = run(small, tmp_path / "r", f"train.precision={precision}")
    assert {parameter.dtype for parameter in done.model.parameters()} == {torch.float32}
    losses = [row["train/loss"] for row in rows(tmp_path / "r") if "train/loss" in row]
    assert losses[-1] < losses[0] - 0.5
    assert f'precision = "{precision}"' in (tmp_path / "r" / "recipe.toml").read_text()


def test_fp16_resumes_with_its_scale(small: list[str], tmp_path: Path) -> None:
    """The loss scale is part of the state: resumed fp16 is bitwise fp16."""
    run(small, tmp_path / "through", "train.precision=fp16", "checkpoint.every=5")
    stop = tmp_path / "stop.py"
    stop.write_text(
        "import os, signal\nfrom llmx import hookimpl\n@hookimpl\ndef llmx_after_step(run):\n"
        "    if run.state.step == 6 and not os.environ.get('WAS_STOPPED'):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    with pytest.raises(StoppedError) as caught:
        run(small, tmp_path / "r", "train.precision=fp16", "checkpoint.every=5", hooks=[str(stop)])
    assert caught.value.exit_code == 143
    os.environ["WAS_STOPPED"] = "1"
    try:
        llmx.run(tmp_path / "r", resume=True)
    finally:
        del os.environ["WAS_STOPPED"]
    assert sha256(tmp_path / "r") == sha256(tmp_path / "through")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it imports its compiler
def test_a_compiled_run_gives_the_same_losses(small: list[str], tmp_path: Path) -> None:
    """torch.compile changes speed, not the result beyond rounding."""
    run(small, tmp_path / "eager", "train.steps=4")
    run(small, tmp_path / "compiled", "train.steps=4", "train.compile=true")
    losses = [[row["train/loss"] for row in rows(tmp_path / n) if "train/loss" in row] for n in ("eager", "compiled")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


# --- states ---------------------------------------------------------------------------------------------------------


def test_any_state_comes_back_equal() -> None:
    """Nested containers, keys that are no strings, tensors of several types, None, big ints and special floats."""
    state = {
        "a": [1, 2.5, None, True, "x", (1, (2,))],
        3: {"t": torch.arange(3), ("k", 1): torch.tensor(2.0, dtype=torch.bfloat16)},
        "inf": float("inf"),
        "big": 2**80,
        "value": {},
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(tree.pack(state, tensors, "s")))
    back = tree.unpack(packed, tensors)
    assert torch.equal(back[3].pop("t"), state[3].pop("t"))  # type: ignore[index]
    assert torch.equal(back[3].pop(("k", 1)), state[3].pop(("k", 1)))  # type: ignore[index]
    assert back == state
    with pytest.raises(TypeError, match=r"s\.x: a set cannot be saved"):
        tree.pack({"x": {1}}, {}, "s")
