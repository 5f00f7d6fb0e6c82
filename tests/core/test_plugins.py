"""Discovery: one plugin's fault is never another's, and everything is reported with where it came from."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmx import Component, PluginError, Recipe, RecipeError, Registry
from llmx.catalogue import read_catalogue
from llmx.component import KINDS
from llmx.layers import Layer
from llmx.plugins import Plugin, discover

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

GOOD = """
    from llmx import Component, hookimpl
    @hookimpl
    def llmx_optimizers():
        return [Component(name="{name}", target="acme_impl:build")]
"""


class Site:
    """A folder on the import path into which distributions are put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, distribution: str, source: str, entry: str = "acme", version: str = "0.1") -> str:
        module = distribution.replace("-", "_")
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[llmx]\n{entry} = {module}\n")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if name.startswith("acme"):
            del sys.modules[name]


def found(distribution: str) -> Plugin:
    return next(plugin for plugin in discover() if plugin.distribution == distribution)


def test_a_strangers_plugin_is_found(site: Site) -> None:
    """An entry point is all it takes; the version is the distribution's."""
    site.add("acme-optim", GOOD.format(name="fast"), version="1.2")
    plugin = found("acme-optim")
    assert (plugin.status, plugin.version, [c.name for _, c in plugin.offers]) == ("ok", "1.2", ["fast"])
    assert Registry().find("optimizer", "fast").plugin == plugin


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("1 / 0", r"ZeroDivisionError: division by zero ("),
        ("llmx_api = 1", 'llmx_api must be "MAJOR.MINOR", as in "1.0": 1'),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("from llmx import hookimpl\n@hookimpl\ndef llmx_optimisers(): return []", "unknown hook 'llmx_optimisers'"),
        ("from llmx import hookimpl\n@hookimpl\ndef llmx_optimizers(run): return []", "llmx_optimizers"),
        ("def llmx_optimizers(): return []", "llmx_optimizers is not marked with @llmx.hookimpl"),
        ("from llmx import hookimpl\n@hookimpl\ndef llmx_after_step(run): pass", "belongs on a callback"),
        ("from llmx import hookimpl\n@hookimpl\ndef llmx_optimizers(): return ['adamw']", "which is no llmx.Component"),
        ("from llmx import hookimpl\n@hookimpl\ndef llmx_optimizers(): return None", "no list of components"),
        (GOOD.format(name="A b"), "'name' must be a lower-case name: 'A b'"),
        (GOOD.format(name='x", options=int, summary="'), "'options' must be an attrs class"),
        (GOOD.format(name="x") + "    @hookimpl\n    def llmx_samplers():\n        return 1 / 0", "ZeroDivisionError"),
        (GOOD.format(name="x").replace("return [", "return 2 * ["), "offers 'x' twice"),
    ],
)
def test_a_broken_plugin_harms_no_other(site: Site, source: str, error: str) -> None:
    """It is reported in one line, with its traceback and distribution; all others work."""
    site.add("acme-bad", source)
    site.add("acme-good", GOOD.format(name="fine"))
    bad = found("acme-bad")
    assert bad.status == "broken"
    assert error in bad.error
    assert "\n" not in bad.error
    assert "Traceback" in bad.traceback
    if "nothing_of_the_kind" not in source and "llmx_api" not in source:
        assert "acme_bad.py:" in bad.error  # the line of the plugin itself, whatever library complained
    registry = Registry()
    assert registry.find("optimizer", "fine").plugin.distribution == "acme-good"
    assert {offer.component.name for offer in registry.offers("scheduler")} >= {"cosine", "wsd"}


def test_a_plugin_below_a_package_that_fails_harms_no_other(site: Site) -> None:
    """Looking for what it was written for must not import the fault again."""
    site.add("acme-bad", "", entry="bad")
    (site.folder / "acme_bad-0.1.dist-info" / "entry_points.txt").write_text("[llmx]\nbad = acme_pkg.plug\n")
    (site.folder / "acme_pkg").mkdir()
    (site.folder / "acme_pkg" / "__init__.py").write_text("raise RuntimeError('no')")
    (site.folder / "acme_pkg" / "plug.py").write_text("")
    assert found("acme-bad").error.startswith("RuntimeError: no (")


def test_two_distributions_with_one_entry_name_are_both_found(site: Site) -> None:
    """pluggy would skip the second without a word."""
    site.add("acme-one", GOOD.format(name="one"), entry="same")
    site.add("acme-two", GOOD.format(name="two"), entry="same")
    registry = Registry()
    assert registry.find("optimizer", "one").plugin.distribution == "acme-one"
    assert registry.find("optimizer", "two").plugin.distribution == "acme-two"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("llmx_api = '1.7'", "was written for plugin API 1.7, this llmx has 1.0: pip install -U llmx"),
        ("llmx_api = '2.0'\nfrom llmx import Novelty", "API 2.0, this llmx has 1.0: pip install -U llmx"),
        ("llmx_api: str = '0.9'", "API 0.9, this llmx has 1.0: pip install -U acme-optim"),
    ],
)
def test_a_plugin_for_another_api_is_incompatible(site: Site, source: str, what: str) -> None:
    """It is listed as such with what to upgrade, also where it cannot even be imported; named, it stops the run."""
    site.add("acme-optim", source + GOOD.format(name="fast").replace("\n    ", "\n"))
    site.add("acme-good", GOOD.format(name="fine"))
    plugin = found("acme-optim")
    assert (plugin.status, plugin.offers) == ("incompatible", ())
    assert what in plugin.error
    assert Registry().find("optimizer", "fine")
    with pytest.raises(PluginError, match=r"plugin 'acme' of acme-optim 0\.1 was written for plugin API"):
        Registry().find("optimizer", "acme-optim:fast")


def test_our_api_and_no_api_are_compatible(site: Site) -> None:
    """A plugin that says nothing is taken to work."""
    site.add("acme-optim", 'llmx_api = "1.0"\n' + textwrap.dedent(GOOD.format(name="fast")))
    site.add("acme-other", GOOD.format(name="other"))
    assert found("acme-optim").status == found("acme-other").status == "ok"


def test_a_plugin_that_imports_torch_is_told_what_it_costs(site: Site, llmx_cli: Cli) -> None:
    """It works, and every command says which distribution makes it slow and by how much."""
    site.add("acme-heavy", "import torch\n" + textwrap.dedent(GOOD.format(name="heavy")))
    done = llmx_cli("plugins", "--kind", "optimizer", PYTHONPATH=str(site.folder))
    assert re.search(r"heavy +acme-heavy", done.stdout)
    assert re.search(
        r"^llmx: plugin acme of acme-heavy imports torch when it is listed, which costs every command \d+\.\d s",
        done.stderr,
        re.MULTILINE,
    )
    assert llmx_cli("plugins").stderr == ""


def test_one_name_from_two_distributions_must_be_qualified(site: Site) -> None:
    """A collision stops and says what to write; nothing is renamed."""
    site.add("acme-optim", GOOD.format(name="adamw"))
    registry = Registry()
    with pytest.raises(
        RecipeError, match=r'offered by acme-optim and by llmx: write "acme-optim:adamw" or "llmx:adamw"'
    ):
        registry.find("optimizer", "adamw")
    assert registry.find("optimizer", "acme-optim:adamw").plugin.distribution == "acme-optim"
    assert registry.find("optimizer", "llmx:adamw").plugin.distribution == "llmx"
    assert Recipe.resolve([], registry).optimizer.offer.plugin.distribution == "llmx"  # a default is clear


@pytest.mark.parametrize(
    ("body", "message"),
    [("return None", "acme_impl:build returned None"), ("return options.lrr", r"acme_impl\.py:2: AttributeError")],
)
def test_a_part_that_cannot_be_built_is_named(site: Site, body: str, message: str) -> None:
    """Which part of which distribution, and the line at fault."""
    site.add("acme-optim", GOOD.format(name="fast"))
    (site.folder / "acme_impl.py").write_text(f"def build(options, model):\n    {body}\n")
    part = Recipe.resolve([Layer("r", {"optimizer": "fast"})], Registry()).optimizer
    with pytest.raises(PluginError, match=rf"optimizer 'fast' of acme-optim: .*{message}"):
        part.build(None)


def test_a_broken_plugin_that_is_named_stops_with_its_traceback(site: Site) -> None:
    """By the entry point's name, or by the distribution's."""
    site.add("llmx-lion", "1 / 0", entry="lion")
    for name in ("lion", "llmx-lion:lion"):
        with pytest.raises(PluginError, match=r"failed to load: ZeroDivisionError[\s\S]*llmx_lion\.py"):
            Registry().find("optimizer", name)


def test_disabled_plugins_are_not_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LLMX_DISABLE_PLUGINS` takes names of entry points and of distributions."""
    module = site.add("llmx-lion", GOOD.format(name="lion"), entry="lion")
    monkeypatch.setenv("LLMX_DISABLE_PLUGINS", "llmx-lion, schedulers")
    registry = Registry()
    assert {p.name for p in registry.plugins if p.status == "disabled"} == {"lion", "schedulers"}
    assert module not in sys.modules
    with pytest.raises(PluginError, match="is disabled: take it out of LLMX_DISABLE_PLUGINS"):
        registry.find("optimizer", "lion")


def test_a_target_that_does_not_exist_is_named(site: Site) -> None:
    """The part's code is imported only when it is used, and then says what is missing."""
    site.add("acme-optim", GOOD.format(name="fast"))
    component = Registry().find("optimizer", "fast").component
    with pytest.raises(PluginError, match=r"target 'acme_impl:build': no module 'acme_impl'"):
        component.load()
    with pytest.raises(PluginError, match="llmx has no 'nope'"):
        Component(name="x", target="llmx:nope").load()


def test_a_target_that_needs_a_package_says_how_to_get_it(site: Site) -> None:
    """An optional dependency that is missing is named with its install line."""
    site.add("acme-optim", GOOD.format(name="fast"))
    (site.folder / "acme_impl.py").write_text("import not_installed_here")
    with pytest.raises(PluginError, match="needs the package 'not_installed_here': pip install not_installed_here"):
        Registry().find("optimizer", "fast").component.load()


def test_the_catalogue_is_what_llmx_ships() -> None:
    """Every part that llmx offers is in registry.toml once, by itself or among those of its plugin."""
    catalogue = read_catalogue()
    assert not catalogue.faults
    ours = [entry for entry in catalogue.entries if entry.distribution == "llmx"]
    listed = [(k, name) for entry in ours for k, names in entry.provides.items() for name in names]
    shipped = {p.name: p for p in discover() if p.distribution == "llmx"}
    offered = [(kind, component.name) for plugin in shipped.values() for kind, component in plugin.offers]
    assert sorted(listed) == sorted(offered)
    assert shipped.keys() <= {entry.name for entry in ours}
    assert all(Path(entry.source, "__init__.py").exists() for entry in ours)


def test_one_distribution_that_offers_a_name_twice_is_told(site: Site) -> None:
    """Qualifying could not help: the two plugins are named."""
    site.add("acme", GOOD.format(name="x"))
    (site.folder / "acme-0.1.dist-info" / "entry_points.txt").write_text("[llmx]\na = acme\nb = acme\n")
    with pytest.raises(PluginError, match="acme offers 'x' twice, in its plugins a and b"):
        Registry().find("optimizer", "x")


def test_a_target_that_fails_to_import_shows_why(site: Site) -> None:
    """Any fault of a stranger's module is a PluginError with its traceback."""
    site.add("acme-optim", GOOD.format(name="fast"))
    (site.folder / "acme_impl.py").write_text("1 / 0")
    with pytest.raises(PluginError, match=r"target .* failed to import: ZeroDivisionError[\s\S]*acme_impl\.py"):
        Registry().find("optimizer", "fast").component.load()


def test_a_known_plugin_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that only the catalogue knows ends with the pip command."""
    monkeypatch.setenv("LLMX_DISABLE_PLUGINS", "")
    registry = Registry([plugin for plugin in discover() if plugin.name != "optimizers"])
    with pytest.raises(PluginError, match="'adamw' is not installed: llmx plugins install optimizers"):
        registry.find("optimizer", "adamw")


def test_every_builtin_target_and_options_class_works() -> None:
    """A component whose target or options cannot be loaded is no component."""
    offers = [offer for offer in Registry().offers() if offer.plugin.distribution == "llmx"]
    assert {offer.kind for offer in offers} >= set(KINDS) - {"adapter"}
    for offer in offers:
        assert callable(offer.component.load())
        assert offer.component.summary


def test_a_distribution_may_bring_a_command(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed in the help without being imported, runs when it is called, and a broken one is named."""
    import signal

    from llmx.cli import main

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own handlers
    module = site.add("acme-cmd", "import click\n@click.command()\ndef hello(): click.echo('hello from acme')")
    entries = site.folder / "acme_cmd-0.1.dist-info" / "entry_points.txt"
    entries.write_text(f"[llmx.commands]\nhello = {module}:hello\nbroken = {module}:nothing\n")
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert re.search(r"hello +From acme-cmd\.", capsys.readouterr().out)
    assert module not in sys.modules
    with pytest.raises(SystemExit) as done:
        main(["hello"])
    assert (done.value.code, capsys.readouterr().out) == (0, "hello from acme\n")
    with pytest.raises(SystemExit) as done:
        main(["broken"])
    assert done.value.code == 3
    assert "command 'broken' of acme-cmd failed to load: AttributeError" in capsys.readouterr().err
