"""The catalogue: what is known and not installed, a second one by path, and installing from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmx import PluginError, Registry
from llmx.catalogue import read_catalogue
from llmx.requirements import unmet

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ENTRY = {
    "name": "lion",
    "summary": "Lion",
    "requires": "./llmx-lion",
    "llmx_api": "1.0",
    "provides": {"optimizer": ["lion"]},
    "source": "here",
    "licence": "MIT",
    "status": "experimental",
    "platforms": ["linux"],
    "tested": "llmx 0.1.0",
}


def write(path: Path, *entries: dict[str, object]) -> Path:
    from llmx.toml import dumps

    path.write_text(dumps({"plugin": list(entries)}), encoding="utf-8")
    return path


def project(folder: Path) -> None:
    """Write the smallest project of a plugin."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "llmx-lion"\nversion = "0.3"\ndependencies = ["llmx"]\n'
        '[project.entry-points.llmx]\nlion = "llmx_lion"\n'
    )
    (folder / "llmx_lion.py").write_text(
        "from llmx import Component, hookimpl\n@hookimpl\ndef llmx_optimizers():\n"
        "    return [Component(name='lion', target='torch.optim:SGD', summary='Lion')]\n"
    )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that sees what this one has installed."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):  # Python 3.11 puts one in that is older than torch wants
        shutil.rmtree(old)
    here = [path for path in sys.path if path.endswith(("/site-packages", "/core", "/plugins"))]
    (site / "seen.pth").write_text("\n".join(here) + "\n")
    return folder / "bin" / "python"


def test_a_plugin_is_installed_by_its_name(fresh: Path, tmp_path: Path) -> None:
    """It says what it will run, asks, runs pip, and what it installed is there; torch stays the one there is."""
    project(tmp_path / "llmx-lion")
    env = {
        **os.environ,
        "LLMX_REGISTRY": str(write(tmp_path / "mine.toml", ENTRY)),
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
    }

    def llmx(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [fresh, "-m", "llmx", *arguments]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False
        )

    listed = json.loads(llmx("plugins", "--all", "--kind", "optimizer", "--json").stdout)
    assert [row["status"] for row in listed if row["name"] == "lion"] == ["installable"]
    unknown = llmx("config", "show", "--optimizer", "lion")
    assert unknown.returncode == 3
    assert "optimizer 'lion' is not installed: llmx plugins install lion" in unknown.stderr

    dry = llmx("plugins", "install", "lion", "--dry-run")
    assert f"-m pip install {tmp_path / 'llmx-lion'} torch==" in dry.stdout
    asks = llmx("plugins", "install", "lion")
    assert asks.returncode == 2
    assert "add --yes" in asks.stderr
    assert llmx("describe", "optimizer", "lion").returncode == 3  # neither installed anything

    done = llmx("plugins", "install", "lion", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(f"llmx describe optimizer lion\nTo undo: {fresh} -m pip uninstall llmx-lion")
    assert "lion, from llmx-lion 0.3" in llmx("describe", "optimizer", "lion").stdout
    assert "is installed" in llmx("plugins", "install", "lion").stdout
    rows = json.loads(llmx("plugins", "--all", "--json").stdout)
    assert [row["status"] for row in rows if row["name"] == "lion"] == ["ok"]


def test_a_pip_that_fails_is_an_error(fresh: Path, tmp_path: Path) -> None:
    """Its own words are above ours."""
    (tmp_path / "llmx-tiger").mkdir()
    entry = {**ENTRY, "name": "tiger", "requires": "./llmx-tiger"}
    env = {**os.environ, "LLMX_REGISTRY": str(write(tmp_path / "mine.toml", entry)), "PIP_NO_INDEX": "1"}
    command = [fresh, "-m", "llmx", "plugins", "install", "tiger", "--yes"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "was not installed: the command above ended with 1" in done.stderr


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "loin",
            2,
            "'loin' is known; nearest: lion, linear, cosine; `llmx plugins --all`",
        ),
        ("newer", 1, "newer was written for plugin API 9.0, this llmx has 1.0: pip install -U llmx"),
        ("both", 2, "'both' may be llmx-lion:lion or llmx-newer:newer: give one of these"),
    ],
)
def test_what_cannot_be_installed_is_told(llmx_cli: Cli, tmp_path: Path, name: str, code: int, message: str) -> None:
    """In one line, before anything is run."""
    lion = {**ENTRY, "requires": "llmx-lion>=1", "provides": {"optimizer": ["lion"], "sampler": ["both"]}}
    newer = {**ENTRY, "name": "newer", "requires": "llmx-newer", "llmx_api": "9.0", "provides": {"sampler": ["both"]}}
    path = write(tmp_path / "mine.toml", lion, newer)
    done = llmx_cli("plugins", "install", name, "--yes", LLMX_REGISTRY=str(path))
    assert (done.returncode, done.stderr) == (code, f"llmx: {done.stderr[6:-1]}\n")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[plugin]\n", "is no catalogue of plugins: Expected ']]'"),
        ("plugin = 3", "plugin: must be an array of tables"),
        ('[[plugin]]\nname = "x"', "plugin x.summary: is required (str)"),
        (None, "is no catalogue of plugins: No such file or directory"),
    ],
)
def test_a_catalogue_that_does_not_parse_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, llmx_cli: Cli, tmp_path: Path, text: str | None, fault: str
) -> None:
    """One line names the file and the place; what llmx itself knows is still known."""
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("LLMX_REGISTRY", str(path))
    catalogue = read_catalogue()
    assert len(catalogue.entries) > 5
    assert fault in catalogue.faults[0]
    assert catalogue.faults[0].startswith(f"{path}: ")
    done = llmx_cli("plugins", LLMX_REGISTRY=str(path))
    assert done.returncode == 0
    assert f"llmx: {path}: " in done.stderr


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"provides": {"optimiser": ["x"]}}, "provides: has no such kind as 'optimiser'"),
        ({"status": "great"}, "status"),
        ({"requires": "llmx lion"}, "requires"),
        ({"requires": "./My Plugin"}, "requires"),
        ({"requires": "-r x"}, "requires"),
        ({"llmx_api": "one"}, "llmx_api"),
        ({"provides": {}}, "plugin bad: must name a part of each kind it lists, and one at least, or a command"),
        ({"provides": {"optimizer": []}}, "must name a part of each kind it lists"),
        ({"colour": "red"}, "colour: no such option"),
        ({"platforms": "linux"}, "platforms: must be list of str"),
    ],
)
def test_an_entry_that_breaks_the_schema_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    """Its neighbours are kept."""
    path = write(tmp_path / "mine.toml", {**ENTRY, **change, "name": "bad"}, ENTRY)
    monkeypatch.setenv("LLMX_REGISTRY", str(path))
    catalogue = read_catalogue()
    assert len(catalogue.faults) == 1
    assert fault in catalogue.faults[0]
    names = [entry.name for entry in catalogue.entries]
    assert "lion" in names
    assert "bad" not in names


def test_what_a_requirement_lacks_is_told() -> None:
    """By distribution, version and extra."""
    assert unmet("torch>=2") == unmet("llmx[test]") == ""
    assert unmet("torch>=99").endswith(" is installed")
    assert unmet("llmx-nothing") == "is not installed"


def test_a_path_counts_by_the_name_of_its_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder `torch` is not torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "pyproject.toml").write_text('[project]\nname = "llmx-nothing"\n')
    path = write(tmp_path / "mine.toml", {**ENTRY, "requires": "./torch"})
    monkeypatch.setenv("LLMX_REGISTRY", str(path))
    (entry,) = [each for each in read_catalogue().entries if each.name == "lion"]
    assert (entry.distribution, entry.lack) == ("llmx-nothing", "is not installed")


def test_a_second_catalogue_does_not_block_the_first(llmx_cli: Cli, tmp_path: Path) -> None:
    """A name that both have is given with its distribution."""
    path = write(tmp_path / "mine.toml", {**ENTRY, "name": "wandb", "requires": "other-wandb"})
    both = llmx_cli("plugins", "install", "wandb", "--dry-run", LLMX_REGISTRY=str(path))
    assert "may be llmx:wandb or other-wandb:wandb: give one of these" in both.stderr
    one = llmx_cli("plugins", "install", "other-wandb:wandb", "--dry-run", LLMX_REGISTRY=str(path))
    assert "install other-wandb torch==" in one.stdout


def test_a_missing_package_ends_with_the_install_line_of_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which may be an extra of the plugin, and not what its module happened to import."""
    from llmx import Recipe
    from llmx.layers import Layer

    entry = {**ENTRY, "requires": "llmx-lion[fast]"}
    monkeypatch.setenv("LLMX_REGISTRY", str(write(tmp_path / "mine.toml", entry)))
    info = tmp_path / "llmx_lion-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llmx-lion\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[llmx]\nlion = lion_plugin\n")
    (tmp_path / "lion_plugin.py").write_text(
        "from llmx import Component, hookimpl\n@hookimpl\ndef llmx_optimizers():\n"
        "    return [Component(name='lion', target='lion_code:build')]\n"
    )
    (tmp_path / "lion_code.py").write_text("import fast_signs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    part = Recipe.resolve([Layer("r", {"optimizer": "lion"})], Registry()).optimizer
    expected = r"optimizer 'lion' of llmx-lion: needs the package 'fast_signs': pip install 'llmx-lion\[fast\]'"
    with pytest.raises(PluginError, match=expected):
        part.load()
