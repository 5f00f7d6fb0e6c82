"""What made a run is recorded, and a run can refuse to go on with anything else."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import llmx
from llmx import PluginError, RecipeError

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

HOOKS = "from llmx import hookimpl\n@hookimpl\ndef llmx_before_run(run): pass\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a distribution `acme-sched` 1.0 of two modules."""
    site = tmp_path / "site"
    info = site / "acme_sched-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sched\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmx]\nacme = acme_sched\n")
    (info / "RECORD").write_text("acme_sched.py,,\nacme_curve.py,,\nacme_sched-1.0.dist-info/METADATA,,\n")
    (site / "acme_sched.py").write_text(
        "from llmx import Component, hookimpl\n@hookimpl\ndef llmx_schedulers():\n"
        "    return [Component(name='half', target='acme_curve:build')]\n"
    )
    (site / "acme_curve.py").write_text("def build(options, total_steps):\n    return lambda step: 0.5\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


def test_the_lock_says_what_made_the_run(site: Path, small: list[str], tmp_path: Path, llmx_cli: Cli) -> None:
    """Every plugin's distribution, version and files, torch, and the hooks files; a change of any one is found."""
    hooks = tmp_path / "my_hooks.py"
    hooks.write_text(HOOKS)
    folder = tmp_path / "run"
    begin = ["run", *small, "--tokenizer", "char", "--scheduler", "half", "--hooks", hooks, "--out", folder]
    assert llmx_cli(*begin).returncode == 0
    lock = json.loads((folder / "lock.json").read_text())
    assert set(lock["plugins"]) == {"acme-sched", "llmx"}
    assert lock["plugins"]["acme-sched"]["version"] == "1.0"
    assert set(lock["plugins"]["llmx"]["modules"]) >= {"llmx", "llmx_tinyllm"}
    assert set(lock["plugins"]["acme-sched"]["modules"]) == {"acme_sched", "acme_curve"}
    assert list(lock["hooks"]) == [str(hooks)]
    assert len(lock["id"]) == 12

    again = ["run", folder, "--resume", "--locked", "train.steps=13"]
    assert llmx_cli(*again).returncode == 0

    curve = site / "acme_curve.py"
    curve.write_text(curve.read_text().replace("0.5", "0.6"))
    hooks.write_text(HOOKS + "# changed\n")
    refused = llmx_cli(*again)
    assert refused.returncode == 3
    assert refused.stderr.splitlines() == [
        f"llmx: {folder}/lock.json: acme-sched 1.0: acme_curve: not the files that the run was made with",
        f"llmx: {folder}/lock.json: hooks {hooks}: is not the file that the run was made with",
    ]
    (site / "acme_sched-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-sched\nVersion: 1.1\n"
    )
    refused = llmx_cli(*again)
    assert "acme-sched was 1.0, and is 1.1: pip install acme-sched==1.0" in refused.stderr
    goes_on = llmx_cli("run", folder, "--resume", "train.steps=14")  # without --locked it is told
    assert goes_on.returncode == 0
    assert "acme-sched was 1.0, and is 1.1" in goes_on.stderr


def test_a_part_more_is_no_drift(char_run: Path, tmp_path: Path, llmx_cli: Cli) -> None:
    """A run that is resumed with a callback is the same otherwise, and from then on the callback is locked too."""
    folder = tmp_path / "run"
    shutil.copytree(char_run, folder)
    done = llmx_cli("run", folder, "--resume", "--locked", "--callback", "ema", "train.steps=13")
    assert (done.returncode, done.stderr) == (0, "")
    lock = json.loads((folder / "lock.json").read_text())
    assert "llmx_callbacks" in lock["plugins"]["llmx"]["modules"]
    again = llmx_cli("run", folder, "--resume", "--locked", "train.steps=14")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_lock_of_before_files_were_recorded_is_read(char_run: Path, tmp_path: Path, llmx_cli: Cli) -> None:
    """What was not recorded cannot have changed."""
    folder = tmp_path / "run"
    shutil.copytree(char_run, folder)
    lock = json.loads((folder / "lock.json").read_text())
    lock["plugins"] = {"llmx": lock["plugins"]["llmx"]["version"]}
    del lock["hooks"], lock["id"]
    (folder / "lock.json").write_text(json.dumps(lock))
    done = llmx_cli("run", folder, "--resume", "train.steps=13")
    assert (done.returncode, done.stderr) == (0, "")


def test_locked_needs_a_run(small: list[str], tmp_path: Path) -> None:
    """A recipe file has no lock."""
    with pytest.raises(RecipeError, match="--locked: needs the run whose lock"):
        llmx.run(overrides=small, locked=True, out=tmp_path / "x")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("require", "message"),
    [
        ("acme-sched>=2,<3", r"1\.0 is installed: pip install 'acme-sched>=2,<3'"),
        ("llmx-nothing", "is not installed: pip install llmx-nothing"),
    ],
)
def test_a_recipe_may_require_plugins(tmp_path: Path, require: str, message: str) -> None:
    """What is missing is said before anything else, with the line that mends it."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'optimizer = "not-there"\n[plugins]\nrequire = ["acme-sched>=0.9", "{require}"]\n')
    with pytest.raises(PluginError, match=rf"recipe\.toml: plugins\.require = '{require}': {message}$"):
        llmx.run(recipe)
    assert not (tmp_path / "runs").exists()


def test_a_requirement_that_is_none_is_a_fault_of_the_recipe(tmp_path: Path) -> None:
    """The place and the text are named."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[plugins]\nrequire = ["a b c"]\n')
    with pytest.raises(RecipeError, match=r"recipe\.toml: plugins\.require"):
        llmx.run(recipe)


@pytest.mark.usefixtures("site")
def test_a_met_requirement_runs(small: list[str], tmp_path: Path) -> None:
    """And is kept in the run's recipe."""
    run = llmx.run(
        {"plugins": {"require": ["acme-sched>=1,<2"]}}, overrides=small, tokenizer="char", out=tmp_path / "r"
    )
    assert run.recipe.plugins.require == ("acme-sched>=1,<2",)
    assert 'require = ["acme-sched>=1,<2"]' in (tmp_path / "r" / "recipe.toml").read_text()
