"""`llmx plugins install`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmx.catalogue import KnownPlugin


@click.command("install")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--upgrade", "-U", is_flag=True, help="Install the newest version where one is installed.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
def command(name: str, yes: bool, upgrade: bool, dry_run: bool) -> None:
    """Install the plugin that the catalogue knows as NAME: its own name, its distribution's or a part's.

    The catalogue is llmx's registry.toml, and a file of the same form that the variable LLMX_REGISTRY names. The
    torch that is installed stays as it is.
    """
    from llmx.errors import LlmxError, RecipeError
    from llmx.plugins import incompatible

    entry = _find(name)
    if entry.is_path and not Path(entry.requires).is_dir():
        raise LlmxError(f"{entry.name}: the catalogue says that its project is in {entry.requires}: no such folder")
    if not entry.lack and not upgrade:
        click.echo(f"{entry.name} is installed ({entry.requires}). {_next(entry)}")
        return
    stale = incompatible(entry.distribution, entry.llmx_api)
    if stale:
        raise LlmxError(f"{entry.name} {stale}")
    line = _pip(entry.requires, upgrade=upgrade)
    click.echo(f"{entry.name}: {entry.summary}\n{entry.licence}, {entry.status}, from {entry.source}")
    for doubt in _doubts(entry):
        click.echo(f"llmx: {entry.name}: {doubt}", err=True)
    click.echo(f"Will run: {shlex.join(line)}")
    if dry_run:
        return
    if not yes and not sys.stdin.isatty():
        raise RecipeError("plugins install: asks before it installs, and there is no terminal to ask on: add --yes")
    if not yes and not click.confirm("Go on?", default=True):
        raise click.Abort
    done = subprocess.run(line, check=False)
    if done.returncode:
        raise LlmxError(f"{entry.requires}: was not installed: the command above ended with {done.returncode}")
    importlib.invalidate_caches()
    if entry.lack:
        raise LlmxError(f"{entry.requires}: the command above ended well, and yet {entry.distribution} {entry.lack}")
    click.echo(f"Installed {entry.name}. {_next(entry)}\nTo undo: {shlex.join(_undo(entry))}")


def _find(name: str) -> KnownPlugin:
    """Return the one entry that a name means.

    Raises:
        RecipeError: there is none, or more than one.
    """
    import difflib

    from llmx.catalogue import read_catalogue
    from llmx.errors import RecipeError

    catalogue = read_catalogue()
    found = catalogue.called(name)
    if len(found) == 1:
        for fault in catalogue.faults:
            click.echo(f"llmx: {fault}", err=True)
        return found[0]
    if found:
        choices = " or ".join(sorted(f"{entry.distribution}:{entry.name}" for entry in found))
        raise RecipeError(f"plugins install: {name!r} may be {choices}: give one of these", *catalogue.faults)
    names = {entry.name for entry in catalogue.entries}
    names |= {part for entry in catalogue.entries for parts in entry.provides.values() for part in parts}
    near = difflib.get_close_matches(name, sorted(names), n=3)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    text = f"plugins install: no plugin called {name!r} is known; {hint}`llmx plugins --all` lists them"
    raise RecipeError(text, *catalogue.faults)


def _doubts(entry: KnownPlugin) -> list[str]:
    """Return what speaks against an entry, for the user to decide."""
    here = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    doubts = []
    if here not in entry.platforms:
        doubts.append(f"its tests pass on {', '.join(entry.platforms) or 'no platform'}, and this is {here}")
    if entry.status == "retired":
        doubts.append("is retired: nobody maintains it")
    return doubts


def _pip(requirement: str, *, upgrade: bool) -> list[str]:
    """Return the command that installs a requirement beside the torch there is."""
    torch = f"torch=={importlib.metadata.version('torch')}"  # a looser one may fetch another build of gigabytes
    return [*_installer("install"), *(["--upgrade"] if upgrade else []), requirement, torch]


def _installer(action: str) -> list[str]:
    """Return the command line of pip for this environment, or of uv where there is no pip.

    Raises:
        LlmxError: there is neither.
    """
    from llmx.errors import LlmxError

    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", action]
    uv = shutil.which("uv")
    if uv is None:
        raise LlmxError(f"plugins install: {sys.executable} has no pip: run it with -m ensurepip first")
    return [uv, "pip", action, "--python", sys.executable]


def _undo(entry: KnownPlugin) -> list[str]:
    return [*_installer("uninstall"), entry.distribution]


def _next(entry: KnownPlugin) -> str:
    """Return what to do with what was installed."""
    kind, names = next(iter(entry.provides.items()))
    return f"See its options: llmx describe {kind} {names[0]}"
