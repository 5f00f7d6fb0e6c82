"""The rules of the house: which way imports point, what every hook promises, how large a file may get."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from llmx import hookspecs
from llmx.component import KINDS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "core").rglob("*.py")) + sorted((ROOT / "plugins").rglob("*.py"))

OFFERS = {f"llmx_{kind}s" for kind in KINDS}
EVENTS = {
    "llmx_objective": ["run"],
    "llmx_before_run": ["run"],
    "llmx_before_step": ["run"],
    "llmx_before_update": ["run"],
    "llmx_after_step": ["run", "metrics"],
    "llmx_before_eval": ["run"],
    "llmx_after_eval": ["run", "metrics"],
    "llmx_after_checkpoint": ["run", "path"],
    "llmx_before_export": ["run"],
    "llmx_after_export": ["run", "path"],
    "llmx_after_run": ["run"],
    "llmx_run_failed": ["run", "error"],
}
"""Hook arguments may be added, never removed."""


def test_imports_point_one_way() -> None:
    """The five import rules, by import-linter."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


def test_every_plugin_is_under_the_import_rules() -> None:
    """A new plugin folder is listed in the contracts."""
    text = (ROOT / "pyproject.toml").read_text()
    plugins = [path.name for path in (ROOT / "plugins").iterdir() if path.is_dir() and path.name.startswith("llmx_")]
    assert len(plugins) >= 8
    for name in plugins:
        assert text.count(f'"{name}"') >= 5, name


def test_hooks_are_those_of_the_plan() -> None:
    """Names and arguments are a promise to plugin authors; each hook has its contract in its docstring."""
    found = {name: each for name, each in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("llmx_")}
    assert found.keys() == OFFERS | EVENTS.keys()
    for name, function in found.items():
        assert list(inspect.signature(function).parameters) == EVENTS.get(name, []), name
        assert len(inspect.getdoc(function) or "") > 60, name


def test_files_stay_small() -> None:
    """A file over 350 lines usually hides a second noun."""
    assert len(SOURCES) > 40
    assert not [path.name for path in SOURCES if len(path.read_text().splitlines()) > 350]


def test_every_module_says_what_it_is_for() -> None:
    """One line at its top."""
    assert not [path for path in SOURCES if not path.read_text().startswith('"""')]
