"""Callbacks: each does what it says, and a run with it is otherwise the run without it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import llmx
from llmx import CheckpointError, DivergedError, LlmxError, RecipeError, hookimpl
from llmx.api import layers_of, report_failure
from llmx.assembly import Run, assemble
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train import checkpoint
from llmx.train.evaluate import evaluate
from llmx.train.loop import Trainer
from llmx_callbacks import EmaOptions
from llmx_callbacks.ema import Ema
from llmx_callbacks.lr_finder import Average, Point, smooth, suggestion
from llmx_callbacks.terminal import say

PROMPT = "generate.prompts=['The ']"


def run(small: list[str], out: Path, *overrides: str, **names: Any) -> Run:
    return llmx.run(overrides=[*small, *overrides], out=out, **{"tokenizer": "char", "logger": ["jsonl"], **names})


def assembled(small: list[str], folder: Path, *overrides: str, **names: Any) -> Run:
    """A run whose steps a test takes itself."""
    registry = Registry()
    names = {"tokenizer": "char", "logger": [], **names}
    recipe = Recipe.resolve(layers_of(overrides=[*small, *overrides], **names), registry)
    folder.mkdir()
    return assemble(recipe, registry, folder)


def listener(ready: Run, name: str) -> Any:
    """The callback of a run that has the state of that name."""
    return dict(ready.hooks._listeners())[f"callback {name}"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- ema ------------------------------------------------------------------------------------------------------------


class Watch:
    """Keeps the weights before the first step and after each one."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    @hookimpl(trylast=True)
    def llmx_before_run(self, run: Run) -> None:
        self.keep(run)

    @hookimpl
    def llmx_after_step(self, run: Run) -> None:
        self.keep(run)

    def keep(self, run: Run) -> None:
        self.weights.append({name: p.detach().clone() for name, p in run.module.named_parameters()})


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_that_of_a_plain_loop(small: list[str], tmp_path: Path, warmup: bool) -> None:
    """avg = d avg + (1 - d) w after each step, from the first weights on, d as the option says; and torch's own."""
    options = ("callback.ema.decay=0.5", f"callback.ema.warmup={str(warmup).lower()}", "train.steps=8", "eval.every=8")
    ready, watch = assembled(small, tmp_path / "r", *options, callback=["ema"]), Watch()
    ready.hooks.register(watch, "watch")
    Trainer(ready).train()
    assert len(watch.weights) == 9
    reference = torch.nn.ParameterList()
    averaged = AveragedModel(reference, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for name, found in listener(ready, "ema").state_dict()["average"].items():
        average = watch.weights[0][name].double()
        for t, weights in enumerate(watch.weights[1:]):
            decay = min(0.5, (1 + t) / (10 + t)) if warmup else 0.5
            average = decay * average + (1 - decay) * weights[name].double()
        torch.testing.assert_close(found.double(), average, atol=1e-7, rtol=1e-6)
        assert not torch.equal(found, watch.weights[-1][name])
        if not warmup:
            reference = torch.nn.ParameterList([watch.weights[0][name].clone()])
            averaged = AveragedModel(reference, multi_avg_fn=get_ema_multi_avg_fn(0.5))
            averaged.update_parameters(reference)
            for weights in watch.weights[1:]:
                reference[0].data.copy_(weights[name])
                averaged.update_parameters(reference)
            assert torch.equal(found, averaged.module[0])


def test_evaluation_and_export_see_the_average_and_training_does_not(
    small: list[str], char_run: Path, tmp_path: Path
) -> None:
    """The weights that train are bitwise those of a run without ema; val/loss and model/ are of the average."""
    done = run(small, tmp_path / "r", callback=["ema"])
    weights, state = last_state(tmp_path / "r")
    average = state["listeners"]["callback ema"]["average"]
    assert same(weights, last_state(char_run)[0])
    assert same(done.weights(), weights)
    exported = load_file(tmp_path / "r" / "model" / "model.safetensors")
    assert same(average, exported)
    assert not same(weights, exported)
    measured = rows(tmp_path / "r" / "metrics.jsonl")[-1]["val/loss"]
    assert evaluate(done)[0] != measured
    done.load_weights(average)
    assert evaluate(done)[0] == measured


def test_the_best_average_is_exported(small: list[str], tmp_path: Path) -> None:
    """checkpoint.export = "best": the average of the best step, and the run ends with the weights of its last."""
    spoil = tmp_path / "spoil.py"
    spoil.write_text(
        "import torch\nfrom llmx import hookimpl\n@hookimpl\ndef llmx_after_step(run):\n"
        "    if run.state.step >= 9:\n        with torch.no_grad():\n"
        "            for p in run.parameters(): p.zero_()\n"
    )
    best = ("checkpoint.export=best", "eval.every=4", "callback.ema.decay=0.5", "optimizer.lr=1e-3")
    done = run(small, tmp_path / "r", *best, callback=["ema"], hooks=[str(spoil)])
    assert done.state.best_step == 8
    _, state = checkpoint.load(tmp_path / "r" / "checkpoints" / checkpoint.folder_name(8))
    average = state["listeners"]["callback ema"]["average"]
    assert same(load_file(tmp_path / "r" / "model" / "model.safetensors"), average)
    weights, state = last_state(tmp_path / "r")
    assert same(done.weights(), weights)
    assert same(listener(done, "ema").state_dict()["average"], state["listeners"]["callback ema"]["average"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_bitwise(small: list[str], tmp_path: Path, dtype: torch.dtype) -> None:
    """Put in and taken out, weights and average are bit for bit as before, and the parameters the same objects."""
    ready = assembled(small, tmp_path / "r")
    ready.module.to(dtype)
    ema = Ema(EmaOptions(), ready)
    for average in ema.state_dict()["average"].values():
        assert average.dtype == torch.float32
        average.add_(torch.randn(average.shape) / 3)
    averages = {name: each.clone() for name, each in ema.state_dict()["average"].items()}
    before = {name: each.clone() for name, each in ready.weights().items()}
    objects = [(id(p), p.data_ptr()) for p in ready.module.parameters()]
    ema.llmx_before_eval()
    assert same(ready.weights(), {name: each.to(dtype) for name, each in averages.items()})
    ema.llmx_after_eval()
    assert same(ready.weights(), before)
    assert same(ema.state_dict()["average"], averages)
    assert [(id(p), p.data_ptr()) for p in ready.module.parameters()] == objects


def test_what_is_not_trained_is_not_averaged(small: list[str], tmp_path: Path) -> None:
    """Frozen parameters have no average, and one that is tied to two places has one."""
    ready = assembled(small, tmp_path / "r")
    names = [name for name, _ in ready.module.named_parameters()]
    ready.module.also = torch.nn.Embedding(1, 1)
    ready.module.also.weight = ready.module.get_parameter("model.embed_tokens.weight")
    assert "also.weight" in ready.weights()
    assert list(Ema(EmaOptions(), ready).state_dict()["average"]) == names
    ready.module.get_parameter(names[1]).requires_grad_(False)
    assert list(Ema(EmaOptions(), ready).state_dict()["average"]) == [names[0], *names[2:]]


def test_an_update_that_fp16_skips_does_not_count(small: list[str], tmp_path: Path) -> None:
    """The weights did not move: the average does not move towards them, and its warm-up waits."""
    ready = assembled(small, tmp_path / "r", "train.steps=4", "train.precision=fp16", callback=["ema"])
    trainer = Trainer(ready)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-90, growth_interval=10**6)
    trainer.train()
    assert ready.state.step == 4
    assert listener(ready, "ema").updates == 3


def test_a_fault_in_an_evaluation_leaves_the_run_its_weights(small: list[str], tmp_path: Path) -> None:
    """Whatever ends the run between before_eval and after_eval, the average is taken out again."""
    ready, watch = assembled(small, tmp_path / "r", "eval.every=3", callback=["ema"]), Watch()

    class Fault:
        @hookimpl
        def llmx_before_eval(self, run: Run) -> None:
            watch.keep(run)
            run.objective = lambda *_: 1 / 0  # type: ignore[assignment]

    ready.hooks.register(Fault(), "fault")
    with pytest.raises(ZeroDivisionError) as caught:
        Trainer(ready).train()
    assert not same(ready.weights(), watch.weights[-1])
    report_failure(ready, caught.value)
    assert same(ready.weights(), watch.weights[-1])
    assert not hasattr(caught.value, "__notes__")


def test_an_average_of_other_parameters_is_refused(small: list[str], tmp_path: Path) -> None:
    """The message names one of them."""
    ready = assembled(small, tmp_path / "r", callback=["ema"])
    state = listener(ready, "ema").state_dict()
    state["average"]["model.norm.weight"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"callback\.ema: .*'model\.norm\.weight'"):
        Ema(EmaOptions(), ready).load_state_dict(state)


def test_ema_may_join_a_run_on_its_way(small: list[str], tmp_path: Path) -> None:
    """Its average then begins with the weights of the checkpoint, not with the random ones of the start."""
    run(small, tmp_path / "r", "train.steps=4")
    weights, _ = last_state(tmp_path / "r")
    late = ("train.steps=5", "callback.ema.decay=0.999", "callback.ema.warmup=false")
    done = llmx.run(tmp_path / "r", resume=True, overrides=late, callback=["ema"])
    for name, average in listener(done, "ema").state_dict()["average"].items():
        expected = 0.999 * weights[name] + 0.001 * done.weights()[name]
        torch.testing.assert_close(average, expected, atol=1e-6, rtol=0)


# --- stop and resume ------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_as_if_it_never_was(small: list[str], tmp_path: Path) -> None:
    """SIGKILL between two checkpoints, then --resume: model/, states, texts and ramp are those of a run without."""
    names = ["ema", "early-stopping", "samples", "lr-finder"]
    more = [*small, "checkpoint.every=5", "eval.every=2", "callback.samples.every=3", PROMPT]
    more += [
        "callback.samples.max_new_tokens=8",
        "callback.lr-finder.max_lr=0.01",
        "callback.early-stopping.patience=6",
        "callback.early-stopping.min_delta=50",  # the first evaluation stays the best, so that the count matters
    ]
    kill = tmp_path / "kill.py"
    kill.write_text(
        "import os, signal\nfrom llmx import hookimpl\n@hookimpl(trylast=True)\ndef llmx_after_step(run):\n"
        "    if run.state.step == 9 and os.environ.pop('KILLED', None):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for folder, env in (("through", {}), ("killed", {"KILLED": "1"})):
        command = [sys.executable, "-m", "llmx", "run", *more, "--tokenizer", "char", "--logger", "jsonl"]
        command += [f"--callback={name}" for name in names] + ["--hooks", str(kill), "--out", str(tmp_path / folder)]
        done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
        assert done.returncode == (-signal.SIGKILL if env else 0), done.stderr
    assert [row["step"] for row in rows(tmp_path / "killed" / "samples.jsonl")] == [3, 6, 9]
    llmx.run(tmp_path / "killed", resume=True)
    for file in ("model/model.safetensors", "samples.jsonl", "lr-finder.json"):
        assert sha256(tmp_path / "killed" / file) == sha256(tmp_path / "through" / file), file
    (weights, state), (others, other) = last_state(tmp_path / "killed"), last_state(tmp_path / "through")
    assert same(weights, others)
    states, expected = state["listeners"], other["listeners"]
    assert same(states["callback ema"].pop("average"), expected["callback ema"].pop("average"))
    assert states == expected
    assert states["callback ema"] == {"updates": 12}
    assert (states["callback early-stopping"]["best_step"], states["callback early-stopping"]["waited"]) == (2, 5)
    assert len(states["callback lr-finder"]["points"]) == 12


# --- early stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "curve", "stops_at"),
    [
        ({}, [3, 2, 1, 1, 1, 1, 0], 6),  # equal is no improvement
        ({}, [3, 2, 2.5, 2.4, 1.9, 2, 2, 1], None),  # two in a row, patience three
        ({"patience": 1}, [3, 2, 2.1], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.0, 1.95, 0], 5),  # 3 -> 2.4 improves, 2.4 -> 2.0 does not
        ({"mode": "max", "patience": 2}, [0.1, 0.3, 0.3, 0.2], 4),
        ({"mode": "max", "patience": 2}, [0.1, 0.3, 0.2, 0.4, 0.5], None),
        ({"monitor": "accuracy", "mode": "max", "patience": 1}, [0.5, 0.4], 2),
        ({"monitor": "train/loss", "patience": 1}, [1.0, 1.0], 2),
        ({"patience": 2}, [math.nan, 1.0, math.nan, math.inf], 4),
    ],
)
def test_it_stops_where_the_curve_says(
    small: list[str], tmp_path: Path, options: dict[str, Any], curve: list[float], stops_at: int | None
) -> None:
    """After `patience` evaluations in a row that did not improve by more than min_delta, and not before."""
    given = [f"callback.early-stopping.{key}={value}" for key, value in options.items()]
    ready = assembled(small, tmp_path / "r", *given, callback=["early-stopping"])
    monitor = options.get("monitor", "val/loss")
    for ready.state.step, value in enumerate(curve, 1):
        of_step = {"train/loss": value} if monitor == "train/loss" else {"train/loss": 7.0}
        ready.hooks.announce("llmx_after_step", run=ready, metrics=of_step)
        metrics = {"val/loss": 5.0} if monitor == "train/loss" else {monitor: value}
        ready.hooks.announce("llmx_after_eval", run=ready, metrics=metrics)
        assert (ready.stop_reason is not None) == (ready.state.step == stops_at)
        if ready.stop_reason is not None:
            assert ready.stop_reason.startswith(f"{monitor} did not improve")
            assert ready.stop_reason.endswith(f"now {value:.4f}")
            return
    assert stops_at is None


def test_early_stopping_ends_a_run_and_says_why(small: list[str], tmp_path: Path) -> None:
    """The reason has the metric, the best value with its step, and the last; the model is exported."""
    stop = ("eval.every=2", "callback.early-stopping.patience=2", "callback.early-stopping.min_delta=50")
    done = run(small, tmp_path / "r", *stop, callback=["early-stopping"])
    losses = [row["val/loss"] for row in rows(tmp_path / "r" / "metrics.jsonl") if "val/loss" in row]
    assert (done.state.step, len(losses)) == (6, 3)
    best, last = f"{losses[0]:.4f}", f"{losses[2]:.4f}"
    by = "val/loss did not improve by more than 50 in 2 evaluations"
    assert done.stop_reason == f"{by}: best {best} at step 2, now {last}"
    assert (tmp_path / "r" / "model" / "config.json").exists()


def test_a_metric_that_does_not_exist_is_told(small: list[str], tmp_path: Path) -> None:
    """With those there are; and without held-out text nothing begins."""
    wrong = ("eval.every=1", "callback.early-stopping.monitor=val/los")
    with pytest.raises(LlmxError, match=r"monitor = 'val/los': no such metric; this run has .*lr, .*val/loss"):
        run(small, tmp_path / "r", *wrong, callback=["early-stopping"])
    with pytest.raises(RecipeError, match=r"callback\.early-stopping: data\.held_out is 0"):
        run(small, tmp_path / "x", "data.held_out=0", callback=["early-stopping"])
    assert not (tmp_path / "x").exists()


# --- samples --------------------------------------------------------------------------------------------------------


def test_texts_on_the_way_disturb_nothing(
    small: list[str], char_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row and a printed line for each prompt and time; weights and random state are those of a run without."""
    two = ("generate.prompts=['The ', 'If']", "callback.samples.every=6", "callback.samples.max_new_tokens=9")
    run(small, tmp_path / "r", *two, callback=["samples"])
    found = rows(tmp_path / "r" / "samples.jsonl")
    assert [(row["step"], row["prompt"]) for row in found] == [(6, "The "), (6, "If"), (12, "The "), (12, "If")]
    assert all(row.keys() == {"step", "prompt", "text"} for row in found)
    shown = capsys.readouterr().out
    (weights, state), (others, other) = last_state(tmp_path / "r"), last_state(char_run)
    assert same(weights, others)
    assert torch.equal(state["random"]["torch"], other["random"]["torch"])
    assert state["random"]["python"] == other["random"]["python"]
    model = llmx.load(tmp_path / "r")
    for row in found[2:]:
        assert row["text"] == model.generate(row["prompt"], max_new_tokens=9)
        assert f"step 12: {row['prompt']} | {row['text']}" in shown


def test_prompts_come_from_held_out_text(small: list[str], tmp_path: Path) -> None:
    """Where the recipe gives none; without any there is an error before anything is written."""
    done = run(small, tmp_path / "r", "train.steps=1", "generate.samples=2", callback=["samples"])
    found = rows(tmp_path / "r" / "samples.jsonl")
    assert [row["prompt"] for row in found] == [str(prompt) for prompt in done.prompts()]
    assert len(found) == 2
    with pytest.raises(RecipeError, match=r"callback\.samples: there is nothing to continue: give generate\.prompts"):
        run(small, tmp_path / "x", callback=["samples"])
    assert not (tmp_path / "x").exists()


def test_texts_stand_above_the_live_view(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the view is erased before a text is printed, so that neither is torn."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    more = ("train.steps=4", "callback.samples.every=2", "callback.samples.max_new_tokens=5", PROMPT)
    run(small, tmp_path / "r", *more, logger=["console"], callback=["samples"])
    shown = capsys.readouterr().out
    assert "\x1b[?25l" in shown  # the live view was there: it hides the cursor
    assert re.search(r"\x1b\[(2K|\?25l)step 2: The  \| ", shown)  # the view may not have been drawn yet
    assert re.search(r"\x1b\[2Kstep 4: The  \| ", shown)


def test_nothing_printed_moves_the_cursor(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a model makes is shown without control characters."""
    say(assembled(small, tmp_path / "r"), "a\x1b[2Jb\tc\r\x9bd\ne 汉字")
    assert capsys.readouterr().out == "a\ufffd[2Jb\tc\ufffd\ufffdd\ne 汉字\n"


# --- profiler -------------------------------------------------------------------------------------------------------


def trace_events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_the_steps_asked_for_are_profiled(
    small: list[str], char_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps after three make a trace of two steps; the table names operations; the run is the one without."""
    more = ("callback.profiler.wait_steps=3", "callback.profiler.active_steps=2", "eval.every=12")
    run(small, tmp_path / "r", *more, callback=["profiler"])
    folder = tmp_path / "r" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["top.txt", "trace-4-5.json"]
    events = trace_events(folder / "trace-4-5.json")
    backward = [e for e in events if e.get("name") == "aten::embedding_dense_backward"]
    assert len(backward) == 2  # once in each step
    steps = {e["name"] for e in events if str(e.get("name")).startswith("ProfilerStep#")}
    assert len(steps) == 2
    table = (folder / "top.txt").read_text()
    assert table.startswith("steps 4 to 5\n")
    assert "aten::mm" in table
    assert f"profiler: wrote steps 4 to 5 to {folder / 'trace-4-5.json'}" in capsys.readouterr().out
    assert same(last_state(tmp_path / "r")[0], last_state(char_run)[0])


def test_a_fault_closes_the_profile(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was whole is written, and torch's profiler is off."""
    fault = tmp_path / "fault.py"
    fault.write_text(
        "from llmx import hookimpl\n@hookimpl\ndef llmx_before_update(run):\n    if run.state.step == 4: 1 / 0\n"
    )
    more = ("callback.profiler.wait_steps=2", "callback.profiler.active_steps=9", "eval.every=12")
    with pytest.raises(LlmxError, match="ZeroDivisionError"):
        run(small, tmp_path / "r", *more, callback=["profiler"], hooks=[str(fault)])
    assert not torch.autograd._profiler_enabled()
    assert (tmp_path / "r" / "profile" / "trace-3-4.json").exists()
    fault.write_text(fault.read_text().replace("== 4", "== 1"))
    with pytest.raises(LlmxError, match="ZeroDivisionError"):
        run(small, tmp_path / "s", *more, callback=["profiler"], hooks=[str(fault)])
    assert not torch.autograd._profiler_enabled()
    assert not (tmp_path / "s" / "profile").exists()
    assert "profiler: no trace: the run ended after step 1, before step 3 was done" in capsys.readouterr().out


def test_more_steps_than_there_are_cannot_be_profiled(small: list[str], tmp_path: Path) -> None:
    """Said before the run begins."""
    with pytest.raises(
        RecipeError, match=r"callback\.profiler: wait_steps \+ active_steps = 14: more than .* 12 steps"
    ):
        run(small, tmp_path / "x", "callback.profiler.wait_steps=11", callback=["profiler"])
    assert not (tmp_path / "x").exists()


# --- learning-rate finder -------------------------------------------------------------------------------------------


def logistic(lr: float, middle: float) -> float:
    """A loss that falls from 9 to 3 around a rate, steepest there over the rate's logarithm, and then explodes."""
    fall = 6 / (1 + math.exp(-3 * (math.log10(lr) - math.log10(middle))))
    return 9 - fall + max(0.0, math.log10(lr / middle) - 1.5) ** 2 * 20


@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("steps", [60, 200])
def test_the_steepest_descent_is_found(middle: float, steps: int) -> None:
    """On a planted curve with noise: within a factor of 1.6 of where it was planted."""
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(0)) * 0.05
    rates = torch.logspace(-6, 0, steps, dtype=torch.float64).tolist()
    points = [Point(i, lr, logistic(lr, middle) + float(noise[i])) for i, lr in enumerate(rates)]
    found = suggestion(points, 0.9)
    assert found is not None
    assert abs(math.log(found / middle)) < math.log(1.6)


@pytest.mark.parametrize("losses", [range(1, 21), [1.0 + n * 2.0**-52 for n in (3, 2, 0, 3, 3)]], ids=["up", "flat"])
def test_a_loss_that_does_not_fall_suggests_nothing(losses: list[float]) -> None:
    """Rather than the least bad rate: one that only rises, and one that is flat but for rounding."""
    assert suggestion([Point(i, 10.0 ** (i / 10), loss) for i, loss in enumerate(losses)], 0.9) is None


def test_no_points_suggest_nothing() -> None:
    """A run may end at its first loss, before there is one."""
    assert suggestion([], 0.9) is None


def test_a_ramp_without_a_step_says_so(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its result is a file without points, no picture, and a line that does not speak of a loss."""
    ready = assembled(small, tmp_path / "r", callback=["lr-finder"])
    ready.hooks.announce("llmx_run_failed", run=ready, error=DivergedError("at once"))
    found = json.loads((tmp_path / "r" / "lr-finder.json").read_text())
    assert (found["suggestion"], found["points"]) == (None, [])
    assert not (tmp_path / "r" / "lr-finder.png").exists()
    shown = capsys.readouterr().out
    assert "lr-finder: the run ended before its first step was done" in shown
    assert "never fell" not in shown


def test_a_step_takes_as_long_however_many_were_before(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average goes on from where it was, also after a resume: no step looks at all points again."""
    taken = []
    monkeypatch.setattr(Average, "of", lambda self, value, of=Average.of: taken.append(value) or of(self, value))
    ready = assembled(small, tmp_path / "r", "train.steps=60", callback=["lr-finder"])
    losses = [5.0 - 0.05 * step for step in range(60)]
    for ready.state.step, loss in enumerate(losses[:40], 1):
        ready.hooks.announce("llmx_after_step", run=ready, metrics={"lr": 1e-3, "train/loss": loss})
    assert taken == losses[:40]
    resumed = assembled(small, tmp_path / "s", "train.steps=60", callback=["lr-finder"])
    resumed.hooks.load_state_dict(ready.hooks.state_dict())
    assert taken == losses[:40] * 2
    for each in (ready, resumed):
        each.state.step = 41
        each.hooks.announce("llmx_after_step", run=each, metrics={"lr": 1e-3, "train/loss": losses[40]})
    assert taken == losses[:40] * 2 + losses[40:41] * 2
    lowest = [listener(each, "lr-finder").lowest for each in (ready, resumed)]
    assert lowest == [min(smooth(losses[:41], 0.9))] * 2


def test_smoothing_is_the_mean_weighted_by_age() -> None:
    """Each value weighs beta ** age, written out."""
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    for n, found in enumerate(smooth(values, 0.9), 1):
        weights = [0.9 ** (n - 1 - i) for i in range(n)]
        assert found == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))


def test_a_ramp_is_run_and_written(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates rise by one factor, groups keep their ratio, a rate of the ramp is suggested, and it is no training."""
    ramp = ("train.steps=40", "optimizer.embedding_lr=1e-2", "eval.every=40", "checkpoint.every=40")
    done = run(small, tmp_path / "r", *ramp, callback=["lr-finder"])
    found = json.loads((tmp_path / "r" / "lr-finder.json").read_text())
    rates = [point["lr"] for point in found["points"]]
    assert rates == pytest.approx(torch.logspace(-6, 0, 40, dtype=torch.float64).tolist())
    assert [g["lr"] / g["initial_lr"] for g in done.optimizer.param_groups] == pytest.approx([200] * 3)
    logged = [row for row in rows(tmp_path / "r" / "metrics.jsonl") if "train/loss" in row]
    assert [point["loss"] for point in found["points"]] == [row["train/loss"] for row in logged]
    assert rates == [row["lr"] for row in logged]
    assert 1e-4 < found["suggestion"] < 3e-2
    assert found["suggestion"] in rates
    shown = capsys.readouterr().out
    assert f"try optimizer.lr={found['suggestion']:.2e}" in shown
    assert "this run was a measurement; train anew for a model" in shown
    assert (tmp_path / "r" / "lr-finder.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecipeError, match=r"callback\.lr-finder: the ramp was at 1\.00e\+00 in step 40"):
        llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=80"])


def test_a_ramp_ends_when_the_loss_has_grown_fourfold(small: list[str], tmp_path: Path) -> None:
    """Of the smoothed loss, written out: a planted curve stops at the first step beyond, and a spike does not."""
    ready = assembled(small, tmp_path / "r", "train.steps=100", callback=["lr-finder"])
    losses = [5.0] * 20 + [2.0] * 20 + [40.0] + [2.0] * 5 + [8.0 + i for i in range(30)]
    for ready.state.step, loss in enumerate(losses, 1):
        ready.hooks.announce("llmx_after_step", run=ready, metrics={"lr": 1e-3, "train/loss": loss})
        if ready.stop_reason is not None:
            break
    means = []
    for n in range(1, len(losses) + 1):
        weights = [0.9 ** (n - 1 - i) for i in range(n)]
        means.append(sum(w * v for w, v in zip(weights, losses, strict=False)) / sum(weights))
    expected = next(n for n in range(1, len(losses) + 1) if means[n - 1] > 4 * min(means[:n]))
    assert ready.state.step == expected > 46
    assert ready.stop_reason == "lr-finder: at a rate of 1.00e-03 the loss is 4 times its lowest"


def test_a_ramp_that_ends_in_no_number_has_a_result(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run itself stops at a loss that is not finite; without matplotlib there is no picture, and no error."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ramp = ("callback.lr-finder.min_lr=1e37", "callback.lr-finder.max_lr=1e38")
    with pytest.raises(DivergedError) as caught:
        run(small, tmp_path / "r", *ramp, callback=["lr-finder"])
    assert not hasattr(caught.value, "__notes__")  # no fault while it concluded
    found = json.loads((tmp_path / "r" / "lr-finder.json").read_text())
    assert 1 <= len(found["points"]) < 12
    assert not (tmp_path / "r" / "lr-finder.png").exists()


def test_a_ramp_needs_steps_and_an_upward_range(small: list[str], tmp_path: Path) -> None:
    """Both are said before anything is written."""
    with pytest.raises(RecipeError, match=r"callback\.lr-finder: 2 steps are too few .* 3 or more"):
        run(small, tmp_path / "x", "train.steps=2", callback=["lr-finder"])
    with pytest.raises(RecipeError, match=r"callback\.lr-finder: max_lr = 1e-07 must be above min_lr = 1e-06"):
        run(small, tmp_path / "x", "callback.lr-finder.max_lr=1e-7", callback=["lr-finder"])
    assert not (tmp_path / "x").exists()
