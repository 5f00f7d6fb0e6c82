"""`llmx report`: figures, differences, what is wrong with a run, and a page that holds only what it should."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmx.errors import LlmxError, PluginError, RecipeError
from llmx.page import script_json
from llmx.report import read_runs, write_report
from llmx.report.curves import MOST_POINTS, draw_charts, path_of, short, ticks
from llmx.report.facts import read_facts, to_json
from llmx.report.page import render
from llmx.report.series import Series, read_metrics, thin

Cli = Any
Make = Callable[..., Path]

RECIPE = """
[model]
name = "tinyllm"
preset = "nano"

[optimizer]
name = "adamw"
lr = {lr}

[[sampler]]
name = "temperature"
temperature = 0.7

[[logger]]
name = "jsonl"
file = "metrics.jsonl"

[train]
steps = {steps}
"""


def rows(steps: Iterable[int], loss: Callable[[int], float | None] = lambda step: 5 / step) -> list[dict[str, Any]]:
    """Return rows as the logger jsonl writes them, with an evaluation every fifth step."""
    made: list[dict[str, Any]] = []
    for step in steps:
        row = {"step": step, "tokens": step * 512, "epoch": 0.1, "train/loss": loss(step), "lr": 1e-3 / step}
        made.append({**row, "grad_norm": 1.0, "tokens_per_s": 1024.0, "mfu": 0.25, "memory_bytes": 2**30})
        if step % 5 == 0:
            made.append({"step": step, "tokens": step * 512, "val/loss": 3 + abs(step - 10), "val/bits_per_byte": 2})
    return made


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a run folder by hand: what a report reads, and nothing else."""

    def made(
        name: str = "run", metrics: list[dict[str, Any]] | str | None = None, recipe: str = "", **lock: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.toml").write_text(recipe or RECIPE.format(lr=0.001, steps=20), encoding="utf-8")
        (folder / "lock.json").write_text(json.dumps({"python": "3.11.7", "torch": "2.7", **lock}), encoding="utf-8")
        metrics = rows(range(1, 21)) if metrics is None else metrics
        text = metrics if isinstance(metrics, str) else "".join(json.dumps(row) + "\n" for row in metrics)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        return folder

    return made


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open, data))

    def content(self, tag: str) -> list[str]:
        """Return the texts that follow an opening tag directly."""
        return [text for name, text in self.texts if name == tag]

    @property
    def data(self) -> Any:
        """What the script draws from."""
        return json.loads(self.content("script")[0])


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_of_a_real_run(char_run: Path) -> None:
    """Losses, steps, tokens and the number of weights are those of the run's own files."""
    from safetensors.torch import load_file

    (row,) = json.loads(to_json(read_runs([char_run])))["runs"]
    logged = [json.loads(line) for line in (char_run / "metrics.jsonl").read_text().splitlines()]
    losses = {each["step"]: each["val/loss"] for each in logged if "val/loss" in each}
    trained = [each for each in logged if "train/loss" in each]
    assert (row["run"], row["state"], row["steps"], row["steps_planned"]) == ("char", "finished", 12, 12)
    assert row["tokens"] == trained[-1]["tokens"]
    assert row["final_train_loss"] == trained[-1]["train/loss"]
    assert (row["best_val_loss"], row["best_val_step"]) == min((loss, step) for step, loss in losses.items())
    assert row["final_val_loss"] == losses[12]
    assert row["tokens_per_s"] == pytest.approx(np.median([each["tokens_per_s"] for each in trained]))
    seconds = sum(trained[0]["tokens"] / each["tokens_per_s"] for each in trained)
    assert row["train_seconds"] == pytest.approx(seconds)
    weights = load_file(char_run / "model" / "model.safetensors")
    assert row["parameters"] == sum(weight.numel() for weight in weights.values())


def test_a_report_needs_no_torch(char_run: Path, tmp_path: Path) -> None:
    """Nor a plugin, nor matplotlib: a page is written in the time of a file."""
    code = (
        "import sys; from pathlib import Path; from llmx.report import write_report\n"
        f"write_report([Path({str(char_run)!r})], Path({str(tmp_path / 'r.html')!r}))\n"
        "print([m for m in sys.modules if m in ('torch', 'numpy', 'pyarrow', 'matplotlib', 'llmx_loggers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (tmp_path / "r.html").is_file()


def test_states(make: Make) -> None:
    """A run at its planned step is done; one with a model written after its last row stopped early; else it runs."""
    assert read_facts(make("done"), "").state == "finished"
    half = make("half", rows(range(1, 8)))
    assert read_facts(half, "").state == "running"
    assert "half is running: step 7 of 20" in render(read_runs([half]))
    (half / "model").mkdir()
    assert read_facts(half, "").state == "stopped early"
    (half / "model").rmdir()
    os.utime(half / "metrics.jsonl", (0, 0))
    assert read_facts(half, "").state == "not finished"


def test_differences_are_the_options_that_differ(make: Make) -> None:
    """Among three runs; parts in lists by their names; an option that one lacks is shown as missing."""
    base = RECIPE.format(lr=0.001, steps=20)
    other = base.replace("temperature = 0.7", "temperature = 1.0")
    runs = [make("a", recipe=base), make("b", recipe=base), make("c", recipe=other + "clip_norm = 1.0\n")]
    found = json.loads(to_json(read_runs(runs)))["differences"]
    assert found == {
        "sampler.temperature.temperature": {"a": 0.7, "b": 0.7, "c": 1.0},
        "train.clip_norm": {"a": None, "b": None, "c": 1.0},
    }
    assert render(read_runs(runs)).count("<code>") == 2
    assert "the recipes are equal" in render(read_runs(runs[:2]))


def test_versions_in_every_form(make: Make) -> None:
    """A plugin's version alone, with a hash of each module, or with one hash."""
    made = [
        make("old", plugins={"llmx": "0.1.0"}),
        make("modules", plugins={"llmx": {"version": "0.1.0", "modules": {"llmx": "a" * 64}}}),
        make("hash", plugins={"llmx": {"version": "0.2.0", "sha256": "b" * 64}}, hooks={"my.py": "c" * 64}),
    ]
    old, modules, hashed = (read_facts(folder, "").versions for folder in made)
    assert old == {"python": "3.11.7", "torch": "2.7", "plugin llmx": "0.1.0"}
    assert modules["plugin llmx"].startswith("0.1.0 (files ")
    assert hashed["plugin llmx"] == "0.2.0 (files bbbbbbbbbbbb)"
    assert hashed["hook my.py"] == "cccccccccccc"


def test_samples_of_the_last_steps(make: Make) -> None:
    """The newest first, three steps of them, without those from before a resume; a torn last line is left out."""
    folder = make()
    steps = [5, 10, 15, 20, 10, 12, 14]
    lines = [json.dumps({"step": step, "prompt": "从前", "text": f"山里 {i}"}) for i, step in enumerate(steps)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + '\n{"step": 2', encoding="utf-8")
    samples = read_facts(folder, "").samples
    assert [(sample.step, sample.text) for sample in samples] == [
        (14, "山里 6"),
        (12, "山里 5"),
        (10, "山里 1"),
        (10, "山里 4"),
    ]
    assert "<b>从前</b>山里 6" in render(read_runs([folder]))


# --- curves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_thinning_keeps_every_extreme(seed: int) -> None:
    """Of each bucket its first, last, lowest and highest value stay, in order, and its mean is numpy's."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=7_013)
    values[generator.integers(7_013)] = 1_000.0
    series = Series()
    for step, value in enumerate(values, 1):
        series.add(step, step * 8, float(value))
    curve = thin(series, 500)
    steps, tokens, kept = (np.array(column) for column in curve.points)
    assert len(steps) <= 500
    assert (np.diff(steps) > 0).all()
    assert (tokens == steps * 8).all()
    assert (kept == values[steps.astype(int) - 1]).all()
    assert curve.means is not None
    bounds = [len(values) * i // 100 for i in range(101)]
    for number, (a, b) in enumerate(itertools.pairwise(bounds)):
        inside = kept[(steps > a) & (steps <= b)]
        assert {values[a], values[b - 1], values[a:b].min(), values[a:b].max()} == set(inside)
        assert curve.means[2][number] == pytest.approx(values[a:b].mean())


def test_thinning_keeps_gaps() -> None:
    """A value that was not finite breaks the line, however many points are left out, and does not enter a mean."""
    series = Series()
    for step in range(1, 5_001):
        series.add(step, step, math.nan if step == 2_500 else 1.0)
    curve = thin(series, 100)
    assert [step for step, value in zip(curve.points[0], curve.points[2], strict=True) if value != value] == [2_500]
    assert curve.means is not None
    assert set(curve.means[2]) == {1.0}
    assert thin(series, 5_000).means is None


def test_a_long_run_makes_a_light_page(make: Make) -> None:
    """A line has at most 2,000 points, the page stays below a megabyte, and one step's spike is on it."""
    steps = range(1, 20_001)
    folder = make(metrics=rows(steps, lambda step: 99.5 if step == 12_345 else 2.0 + step % 7 / 10))
    html = render(read_runs([folder]))
    assert len(html) < 1_000_000
    lines = [line for chart in Page(html).data["charts"] for line in chart["lines"]]
    assert len(lines) == 8
    assert all(len(line["x"]) == len(line["y"]) <= MOST_POINTS for line in lines)
    assert (12_345, 99.5) in zip(lines[0]["x"], lines[0]["y"], strict=True)


def test_a_resumed_run_is_one_line(make: Make) -> None:
    """Steps that were taken again count once, as they were taken last."""
    again = rows(range(6, 13), lambda _: 7.0)
    path = make(metrics=rows(range(1, 10)) + again) / "metrics.jsonl"
    found = read_metrics(path)
    assert list(found["train/loss"].steps) == list(range(1, 13))
    assert list(found["train/loss"].values)[5:] == [7.0] * 7
    assert list(found["val/loss"].steps) == [5, 10]


def test_values_that_are_not_finite_are_gaps(make: Make) -> None:
    """null, NaN, Infinity and a number too large for a float leave a hole, and no figure comes from them."""
    text = "".join(
        f'{{"step": {step}, "tokens": {step}, "train/loss": {value}}}\n'
        for step, value in enumerate(["3.0", "null", "NaN", "2.0", "-Infinity", "1" + "0" * 400], 1)
    )
    run = read_facts(make(metrics=text), "x")
    assert [value == value for value in run.metrics["train/loss"].values] == [True, False, False, True, False, False]
    assert run.figures.final_train_loss == 2.0
    (line,) = draw_charts([run])[0].lines
    assert line.main.count("M") == 2
    assert "nan" not in render([run]).lower().replace("nano", "").replace("nance", "")


def test_a_metric_of_a_callback_gets_a_chart(make: Make) -> None:
    """What is no number is left out; so is a metric that never had a value."""
    extra = [{**row, "my/reward": 0.5, "note": "text", "flag": True, "none": None} for row in rows(range(1, 21))]
    titles = [drawing.chart.title for drawing in draw_charts(read_runs([make(metrics=extra)]))]
    assert titles[0] == "Loss"
    assert "my/reward" in titles
    assert not {"note", "flag", "none", "step", "epoch"} & set(titles)


def test_paths() -> None:
    """A line through points, broken at gaps; a lone point is drawn, as a dot."""
    nan = math.nan
    assert path_of([0, 1, 2, 3, 4], [5, 6, nan, 7, 8]) == "M0.0 5.0L1.0 6.0M3.0 7.0L4.0 8.0"
    assert path_of([0, 1, 2], [5, nan, 6]) == "M0.0 5.0h0M2.0 6.0h0"
    assert path_of([0, 1], [5, 6], dots=True) == "M0.0 5.0h0M1.0 6.0h0"


@pytest.mark.parametrize(("low", "high"), [(0, 60), (2.78, 6.03), (0, 1e-5), (-3, 5e11), (0.999, 1.001)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    """A few, equally far apart, within the scale, and told apart by their labels."""
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 * high <= found[0] < found[-1] <= high * (1 + 1e-9)
    assert np.allclose(np.diff(found), found[1] - found[0])
    assert len({short(tick) for tick in found}) == len(found)


# --- what is wrong with a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1, 2]", r"metrics\.jsonl, line 4: is no JSON object but b'\[1, 2\]': remove the line"),
        ('{"step": 3, "tr', r"metrics\.jsonl, line 4: is no JSON: remove the line"),
        ('{"train/loss": 3.0}', r"metrics\.jsonl, line 4: has no step"),
        ('{"step": "3"}', r"metrics\.jsonl, line 4: has no step"),
        ("\udcff", r"metrics\.jsonl, line 4: is no JSON"),
    ],
)
def test_a_wrong_row_is_named(make: Make, line: str, said: str) -> None:
    """By its file and its line; only the last line may be torn, for a run may be writing it."""
    folder = make()
    whole = (folder / "metrics.jsonl").read_text().splitlines()
    text = "\n".join([*whole[:3], line, *whole[3:]])
    (folder / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError, match=said):
        read_facts(folder, "")


def test_a_torn_last_line_is_left_out(make: Make) -> None:
    """Cut anywhere, in the middle of a character too, the rows before it count."""
    folder = make(metrics=rows(range(1, 4)))
    path = folder / "metrics.jsonl"
    row = (json.dumps({"step": 4, "train/loss": 1.0, "名": 2}, ensure_ascii=False) + "\n").encode()
    before = path.read_bytes()
    for cut in range(len(row) - 2):
        path.write_bytes(before + row[:cut])
        assert read_facts(folder, "").figures.steps == 3
    path.write_bytes(before + row)
    assert read_facts(folder, "").figures.steps == 4


def test_what_is_no_run_is_told(make: Make, llmx_cli: Cli, tmp_path: Path) -> None:
    """One line and exit code 2: no folder, no run, no logger, no step yet, a recipe that does not parse."""
    bare = make("bare", recipe='[[logger]]\nname = "console"\n')
    (bare / "metrics.jsonl").unlink()
    early = make("early")
    (early / "metrics.jsonl").unlink()
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "none": "no such folder: give the folder of a run",
        tmp_path / "folder": "holds no run",
        bare: 'names no logger "jsonl": train with --logger jsonl',
        early: "the run has taken no step yet",
        make("empty", ""): "holds no step yet",
        make("broken", recipe="= 3"): "does not parse",
        make("bytes"): "does not parse",
    }
    (tmp_path / "bytes" / "recipe.toml").write_bytes(b"\xff")
    for folder, said in cases.items():
        with pytest.raises(RecipeError) as caught:
            write_report([folder], tmp_path / "report.html")
        assert said in str(caught.value)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
    done = llmx_cli("report", bare)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("llmx: ")


# --- files ----------------------------------------------------------------------------------------------------------


def test_where_the_page_goes(make: Make, llmx_cli: Cli, tmp_path: Path) -> None:
    """Into one run, beside several, or where it was said; with --json nowhere unless it was said."""
    a, b = make("a"), make("b")
    assert llmx_cli("report", "a", "--json", cwd=tmp_path).returncode == 0
    assert not (a / "report.html").exists()
    done = llmx_cli("report", "a", "./a/", cwd=tmp_path)
    assert (done.stdout, (a / "report.html").is_file()) == ("a: a/report.html\n", True)
    assert llmx_cli("report", a, b, cwd=tmp_path).returncode == 0
    assert "<title>2 runs" in (tmp_path / "report.html").read_text(encoding="utf-8")
    done = llmx_cli("report", a, b, "--json", "--out", "new/r.html", cwd=tmp_path)
    assert [row["run"] for row in json.loads(done.stdout)["runs"]] == ["a", "b"]
    assert (tmp_path / "new" / "r.html").is_file()


def test_nothing_of_another_is_overwritten(make: Make, tmp_path: Path) -> None:
    """A report of ours is replaced; any other file, a folder, and a place one cannot write to are told."""
    folder, out = make(), tmp_path / "report.html"
    assert write_report([folder], out) == out
    out.write_text(out.read_text(encoding="utf-8") + "old", encoding="utf-8")
    write_report([folder], out)
    assert not out.read_text(encoding="utf-8").endswith("old")
    out.write_text("mine")
    with pytest.raises(RecipeError, match=r"report\.html: exists and is no report of llmx: give another name"):
        write_report([folder], out)
    assert out.read_text() == "mine"
    with pytest.raises(RecipeError, match="is a folder"):
        write_report([folder], tmp_path)
    with pytest.raises(LlmxError, match=r"x\.html: cannot be written: .*: give another name"):
        write_report([folder], out / "x.html")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_runs_of_one_name_are_told_apart(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as much of the path as was given; one run given twice is one."""
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        make("run").rename(tmp_path / place / "run")
    monkeypatch.chdir(tmp_path)
    found = read_runs([Path("x/run"), Path("y/run/"), tmp_path / "x" / "run"])
    assert [run.name for run in found] == [os.path.normpath(tmp_path / "x" / "run"), "y/run"]


def test_the_picture(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 1350 x 750 that can be replaced; another picture is kept; without matplotlib, what to install."""
    from llmx.report.png import write_png

    runs, out = read_runs([make("_$a$"), make("b", rows(range(1, 4_000)))]), tmp_path / "loss.png"
    for _ in range(2):
        write_png(runs, out)
    content = out.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (1350, 750)
    out.write_bytes(content[:8])
    with pytest.raises(RecipeError, match="is no report of llmx"):
        write_png(runs, out)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PluginError, match=r"--png: needs matplotlib: pip install 'llmx\[plot\]'"):
        write_png(runs, out)


# --- the page -------------------------------------------------------------------------------------------------------

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def evil(make: Make) -> Page:
    """The page of two runs in which everything that can hold a text holds HTML."""
    metrics = [{**row, f"{EVIL}</script><script>m": 1.0} for row in rows(range(1, 21))]
    recipe = RECIPE.format(lr=0.001, steps=20) + f"\n[data]\npath = '{EVIL}'\n'{EVIL}' = 1\n"
    folder = make(EVIL, metrics, recipe, plugins={EVIL: EVIL}, device=EVIL)
    sample = {"step": 1, "prompt": f"</script>{EVIL}", "text": f"<!--<script>{EVIL}"}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n", encoding="utf-8")
    return Page(render(read_runs([folder, make("plain")])))


def test_text_stays_text(evil: Page) -> None:
    """No element, attribute or script comes from a run, and nothing of its text is lost."""
    names = [tag for tag, _ in evil.tags]
    assert names.count("script") == 2
    assert "img" not in names
    assert not [name for _, attributes in evil.tags for name in attributes if name.startswith("on")]
    assert sum(EVIL in text for _, text in evil.texts) >= 10
    assert evil.data["runs"] == [EVIL, "plain"]


def test_data_cannot_end_its_script() -> None:
    """A path given for a name may hold "</script>"; it reads back as it was."""
    value = {"runs": ["a</script><script>alert(1)", "<!--<script>", "&lt;"]}
    text = script_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_half_a_character_does_not_stop_a_report(make: Make, tmp_path: Path, llmx_cli: Cli) -> None:
    """JSON can hold one, and so can the name of a folder; nor does a model that is cut short."""
    folder = make(os.fsdecode(b"run-\xff"))
    (folder / "samples.jsonl").write_text('{"step": 1, "prompt": "\\ud83d", "text": "x"}\n')
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"\xff" * 9)
    done = llmx_cli("report", folder, "--out", tmp_path / "r.html", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["runs"][0]["parameters"] is None
    assert "<b>?</b>x" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(evil: Page) -> None:
    """It names no other resource, and its policy allows its own style and script, by their hashes, and no more."""
    assert not [each for each in evil.tags if {"src", "href", "style"} & each[1].keys()]
    assert {tag for tag, _ in evil.tags}.isdisjoint({"link", "iframe", "object", "embed", "form", "base"})
    (policy,) = [a["content"] for _, a in evil.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    (style,), (_, script) = evil.content("style"), evil.content("script")
    for text, part in ((style, "style-src"), (script, "script-src")):
        assert parts[part] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        assert "url(" not in text
        assert "import" not in text
    assert parts["default-src"] == "'none'"


def test_the_page_shows_all_without_its_script(make: Make) -> None:
    """Every line of every run is drawn, every label and figure is text."""
    html = render(read_runs([make("a"), make("b")]))
    page = Page(html)
    groups = [a for tag, a in page.tags if tag == "g"]
    assert len(groups) == 2 * 8
    drawn = [a["d"] for tag, a in page.tags if tag == "path" and a.get("class") == "main"]
    assert len(drawn) == len(groups)
    assert all(d and d.count("L") in (3, 19) for d in drawn)
    assert {"Loss", "Learning rate", "Gradient norm", "Throughput", "Memory"} <= set(page.content("h3"))
    for figure in ("3.0000", "step 10", "0.2500", "10.24k", "1,024", "10 s", "1.00"):
        assert figure in html


def luminance(colour: str) -> float:
    """Return the relative luminance of "#rrggbb" as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_their_ground() -> None:
    """Text at 4.5, lines at 3, by WCAG 2, in light and in dark."""
    from llmx.page import files

    css = (Path(files.__file__).parent / "base.css").read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r"\{[^{}]*--s0[^{}]*\}", css)
    ]
    themes = [theme for theme in themes if theme]
    assert len(themes) == 3
    assert themes[1] == themes[2]
    for theme in themes:
        for text, ground in (
            ("ink", "paper"),
            ("soft", "paper"),
            ("soft", "card"),
            ("ink", "mark"),
            ("accent", "card"),
        ):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for state in ("ok", "open"):
            assert contrast(theme[state], theme[f"{state}-back"]) >= 4.5
        for number in range(8):
            assert contrast(theme[f"s{number}"], theme["card"]) >= 3, number
