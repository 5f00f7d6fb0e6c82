"""The frame of the conformance kit: which parts a name stands for, with which options, and that checks are done."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import evolve, frozen

from llmx import Component, PluginError, RecipeError, Registry
from llmx.plugins import Plugin
from llmx.testing.frame import Subject, parts_of, run_check, suite
from llmx.testing.tiny import surroundings

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@frozen
class Options:
    lr: float = 0.1
    """Rate."""
    beta: float = 0.9
    """Momentum."""


@frozen
class ModeOptions:
    mode: Literal["online", "offline"] | None = None
    """Where rows go."""


@frozen
class OtherModeOptions:
    mode: Literal["min", "max"] | str = "min"
    """Which value is best; a text is none of its choices."""


def planted(distribution: str, *offers: tuple[str, str, type], name: str = "parts") -> Plugin:
    """A plugin that offers parts, as kind, name and options."""
    found = Plugin(name=name, distribution=distribution, version="0", module="planted", status="ok")
    made = tuple((kind, Component(name=part, target="planted:x", options=cls)) for kind, part, cls in offers)
    return evolve(found, offers=made)


def broken(distribution: str, name: str) -> Plugin:
    return Plugin(
        name=name, distribution=distribution, version="0", module="planted", status="broken", error="SyntaxError: x"
    )


LION = planted("llmx-lion", ("optimizer", "lion", Options))
ZOO = planted("llmx-zoo", ("optimizer", "tiger", Options), ("optimizer", "lynx", Options))


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lion", "llmx-lion", "llmx-lion:lion"])
def test_a_broken_plugin_of_that_name_elsewhere_is_in_nobodys_way(name: str) -> None:
    """A healthy part is checked by its own name, its distribution's, or both."""
    (part,) = parts_of(name, Registry([broken("llmx-other", "lion"), LION]))
    assert part.offer.qualified == "llmx-lion:lion"


@pytest.mark.parametrize("name", ["lion", "llmx-other"])
def test_a_broken_plugin_that_is_meant_is_said(name: str) -> None:
    """By its name where nothing else has it, and by its distribution also where another plugin of that is healthy."""
    registry = Registry([broken("llmx-other", "lion"), planted("llmx-other", ("optimizer", "ox", Options))])
    with pytest.raises(PluginError, match=r"^lion of llmx-other: broken: SyntaxError: x$"):
        parts_of(name, registry)


# --- options --------------------------------------------------------------------------------------------------------


def test_options_reach_the_part_that_they_name() -> None:
    """And no other of the same plugin."""
    parts = parts_of("llmx-zoo", Registry([ZOO]), {"lynx": {"lr": 0.5}})
    assert {part.offer.component.name: part.options.lr for part in parts} == {"tiger": 0.1, "lynx": 0.5}


@pytest.mark.parametrize("name", ["lion", "llmx-lion", "llmx-lion:lion", "parts"])
def test_options_of_the_only_part_may_go_by_the_name_that_was_given(name: str) -> None:
    """`llmx plugins check llmx-lion lr=0.5` is what it looks like, also beside one that names the part."""
    options = {name: {"lr": 0.5}} if name == "lion" else {name: {"lr": 0.5}, "lion": {"beta": 0.5}}
    (part,) = parts_of(name, Registry([LION]), options)
    assert part.options == Options(lr=0.5, beta=0.9 if name == "lion" else 0.5)


def test_parts_of_two_kinds_may_share_a_name() -> None:
    """An option goes to the one that has it, by the name alone or with the kind before it; one that both have to both,
    unless the kind is said."""
    sharing = planted("llmx-two", ("optimizer", "two", Options), ("logger", "two", OtherModeOptions))
    both = planted("llmx-two", ("optimizer", "two", Options), ("scheduler", "two", Options))

    def made(plugin: Plugin, options: dict[str, dict[str, Any]]) -> list[Any]:
        return [part.options for part in parts_of("two", Registry([plugin]), options)]

    assert made(sharing, {"two": {"lr": 0.5, "mode": "max"}}) == [Options(lr=0.5), OtherModeOptions("max")]
    assert made(sharing, {"optimizer.two": {"lr": 0.5}}) == [Options(lr=0.5), OtherModeOptions()]
    assert made(both, {"two": {"lr": 0.5}}) == [Options(lr=0.5), Options(lr=0.5)]
    assert made(both, {"scheduler.two": {"lr": 0.5}}) == [Options(), Options(lr=0.5)]
    with pytest.raises(RecipeError, match=r"two\.x: no such option|two\.x"):
        made(both, {"two": {"x": 1}})


def test_options_of_no_part_are_refused() -> None:
    """Each is said with the nearest names: a slip in a name must not check a part with its defaults."""
    with pytest.raises(RecipeError) as caught:
        parts_of("llmx-zoo", Registry([ZOO]), {"llmx-zoo": {"lr": 1}, "tigre": {"lr": 1, "beta": 2}, "lynx": {}})
    assert caught.value.faults == (
        "check: llmx-zoo.lr: 'llmx-zoo' is no part that is checked; nearest: lynx, tiger",
        "check: tigre.lr, tigre.beta: 'tigre' is no part that is checked; nearest: tiger",
    )


def test_options_of_no_part_end_the_command(llmx_cli: Cli) -> None:
    """With the exit code of a wrong argument, before any check."""
    done = llmx_cli("plugins", "check", "schedulers", "nonsense=1", "constnt.warmup=5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "schedulers.nonsense: 'schedulers' is no part that is checked; nearest: " in done.stderr
    assert "constnt.warmup: 'constnt' is no part that is checked; nearest: constant" in done.stderr


@pytest.mark.parametrize(
    ("kind", "cls", "given", "expected"),
    [
        ("logger", ModeOptions, {}, "offline"),
        ("logger", ModeOptions, {"mode": "online"}, "online"),
        ("logger", OtherModeOptions, {}, "min"),
        ("callback", ModeOptions, {}, None),
    ],
)
def test_a_logger_is_offline_where_it_can_be(kind: str, cls: type, given: dict[str, Any], expected: str) -> None:
    """Where nothing else is asked for; a mode that has no such choice, or is no logger's, is left alone."""
    (part,) = parts_of("x", Registry([planted("llmx-x", (kind, "x", cls))]), {"x": given})
    assert part.options.mode == expected


# --- accounts -------------------------------------------------------------------------------------------------------


def test_a_run_of_the_kit_knows_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the home nor a variable of a client is that of whoever runs it, and afterwards all are as before."""
    theirs = {
        "HOME": str(tmp_path),
        "NETRC": str(tmp_path / "netrc"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "WANDB_API_KEY": "secret",
        "SWANLAB_API_KEY": "secret",
        "TRACKIO_SPACE_ID": "secret",
        "HF_TOKEN": "secret",
    }
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with contextlib.suppress(KeyError), surroundings(tmp_path / "run"):
        assert not [name for name in theirs if os.environ.get(name) == theirs[name]]
        assert Path.home() != tmp_path
        assert not list(Path.home().glob(".netrc"))
        os.environ["WANDB_SERVICE"] = "left by a client"
        raise KeyError
    assert dict(os.environ) == before


def test_a_tracker_is_checked_without_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb by its name alone: it passes for one who has no key, and sends nothing for one who is logged in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "theirs"))
    (tmp_path / "home").mkdir()
    (tmp_path / "checked").mkdir()
    (part,) = parts_of("wandb", Registry())
    (check,) = [each for each in suite("logger") if each.name == "takes-any-number"]
    result = run_check(check, Subject(part, tmp_path / "checked"))
    assert result.status == "passed", result.message
    assert list((tmp_path / "checked").rglob("offline-run-*/*.wandb"))
    assert not (tmp_path / "theirs").exists()
    assert not list((tmp_path / "home").rglob("*"))


# --- checks are done ------------------------------------------------------------------------------------------------


def test_python_without_assertions_is_refused() -> None:
    """Every check would pass: one line instead, from the command and from the check that is a function."""
    runs = {
        "command": ["-m", "llmx", "plugins", "check", "constant"],
        "function": ["-c", "from llmx.testing import check_cached_decoding; check_cached_decoding(None)"],
    }
    for what, arguments in runs.items():
        done = subprocess.run(
            [sys.executable, "-O", *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 1, what
        assert "passed" not in done.stdout
        assert re.search(r"check: every check is an assertion, and python -O \(PYTHONOPTIMIZE\)", done.stderr), what
        assert what == "function" or len(done.stderr.splitlines()) == 1


AUTHORS = """
import pytest

@pytest.mark.llmx_plugin("constant")
def test_called(llmx_check):
    llmx_check()

@pytest.mark.llmx_plugin("constant")
def test_forgotten(llmx_check):
    llmx_check

@pytest.mark.llmx_plugin("constant")
def test_skipped(llmx_check):
    pytest.skip("for a reason of its own")

@pytest.mark.llmx_plugin("constant")
def test_failed(llmx_check):
    assert 1 == 2
"""


def test_a_test_that_forgets_its_check_fails(tmp_path: Path) -> None:
    """Once, as a failure, for each check; one that calls it, skips or fails by itself is what it is."""
    (tmp_path / "test_it.py").write_text(AUTHORS)
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "test_it.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    count = len(suite("scheduler"))
    found = {
        name: (
            len(re.findall(rf"^PASSED test_it.py::test_{name}\[", done.stdout, re.MULTILINE)),
            len(re.findall(rf"^FAILED test_it.py::test_{name}\[", done.stdout, re.MULTILINE)),
        )
        for name in ("called", "forgotten", "skipped", "failed")
    }
    assert found == {"called": (count, 0), "forgotten": (0, count), "skipped": (0, 0), "failed": (0, count)}
    assert done.stdout.count("never calls it: nothing was checked") >= count
    assert re.search(rf"{2 * count} failed, {count} passed, {count} skipped in", done.stdout)
