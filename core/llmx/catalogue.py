"""The catalogue of known plugins, installed or not: `registry.toml`, and a second file named by `LLMX_REGISTRY`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen, validators

from llmx.component import KINDS
from llmx.options import structure
from llmx.shipped import shipped_path

VARIABLE = "LLMX_REGISTRY"

STATUSES = ("built-in", "maintained", "experimental", "retired")


def _parts(plugin: Any, _: Any, value: dict[str, list[str]]) -> None:
    unknown = [kind for kind in value if kind not in KINDS]
    if unknown:
        raise ValueError(f"has no such kind as {unknown[0]!r}; kinds: {', '.join(KINDS)}")
    if not all(value.values()) or not (value or plugin.commands):
        raise ValueError("must name a part of each kind it lists, and one at least, or a command in `commands`")


@frozen(kw_only=True)
class KnownPlugin:
    """One entry of a catalogue."""

    name: str
    """What `llmx plugins install` is given: the plugin's entry point, or one part of it that needs an extra."""
    summary: str
    """One line."""
    requires: str
    """What pip installs: a requirement (`llmx-lion>=0.2`, `llmx[wandb]`), or a path that begins with `.` or `/`, taken
    from the folder of the catalogue."""
    llmx_api: str = field(validator=validators.matches_re(r"\d+\.\d+"))
    """The plugin API it was written for, `MAJOR.MINOR`."""
    commands: list[str] = field(factory=list)
    """Names of the commands it adds: "serve" is `llmx serve`."""
    provides: dict[str, list[str]] = field(validator=_parts)
    """Names of parts by kind."""
    source: str
    """Where its code is: an address, or a folder of this repository."""
    licence: str
    """SPDX identifier."""
    status: str = field(validator=validators.in_(STATUSES))
    platforms: list[str]
    """Of "linux", "macos", "windows": where its tests pass."""
    tested: str
    """What its tests last ran on: versions of llmx, Python and torch."""

    @property
    def distribution(self) -> str:
        """The name of what pip installs, without version and extras; of a path, what its pyproject.toml says.

        Raises:
            packaging.requirements.InvalidRequirement: there is none.
        """
        from packaging.requirements import Requirement

        return Requirement(_project_name(Path(self.requires)) if self.is_path else self.requires).name

    @property
    def is_path(self) -> bool:
        return self.requires.startswith((".", "/"))

    @property
    def lack(self) -> str:
        """What is missing of it here, empty if nothing: "is not installed"."""
        from llmx.requirements import unmet

        return unmet(self.distribution if self.is_path else self.requires)


@frozen
class Catalogue:
    """What the files say, and one line for each fault in them."""

    entries: tuple[KnownPlugin, ...]
    faults: tuple[str, ...]

    def providing(self, kind: str, name: str) -> list[KnownPlugin]:
        """Return the entries that offer a part."""
        return [entry for entry in self.entries if name in entry.provides.get(kind, ())]

    def called(self, name: str) -> list[KnownPlugin]:
        """Return the entries that a user may mean by a name: their own, their distribution's, or a part's.

        `distribution:name` means one of several that are called alike.
        """
        distribution, _, bare = name.rpartition(":")
        if distribution:
            return [entry for entry in self.called(bare) if entry.distribution == distribution]
        exact = [entry for entry in self.entries if entry.name == name]
        return exact or [
            entry
            for entry in self.entries
            if name == entry.distribution or any(name in names for names in entry.provides.values())
        ]


def read_catalogue() -> Catalogue:
    """Read llmx's own catalogue and the one that `LLMX_REGISTRY` names; a faulty entry or file harms no other."""
    paths = [shipped_path()]
    if os.environ.get(VARIABLE):
        paths.append(Path(os.environ[VARIABLE]))
    entries: list[KnownPlugin] = []
    faults: list[str] = []
    for path in paths:
        _read(path, entries, faults)
    return Catalogue(tuple(entries), tuple(faults))


def _read(path: Path, entries: list[KnownPlugin], faults: list[str]) -> None:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file).get("plugin")
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        faults.append(f"{path}: is no catalogue of plugins: {reason}")
        return
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        faults.append(f"{path}: plugin: must be an array of tables, [[plugin]]")
        return
    for number, table in enumerate(tables, 1):
        entry, wrong = structure(KnownPlugin, table, f"plugin {table.get('name', number)}")
        faults.extend(f"{path}: {fault.path}: {fault.message}" for fault in wrong)
        if entry is None:
            continue
        placed = _placed(entry, path)
        fault = _bad_requirement(placed)
        if fault:
            faults.append(f"{path}: plugin {entry.name}.requires = {entry.requires!r}: {fault}")
        else:
            entries.append(placed)


def _bad_requirement(entry: KnownPlugin) -> str:
    """Return why pip could not install what an entry requires, empty if it may."""
    from packaging.requirements import InvalidRequirement

    try:
        name = entry.distribution
    except InvalidRequirement as error:
        return str(error).splitlines()[0]
    return "" if name else "names no distribution"


def _project_name(folder: Path) -> str:
    """Return the name that the project of a folder has; the folder's own where that does not say."""
    try:
        with (folder / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["name"])
    except (OSError, KeyError, TypeError, ValueError):
        return folder.name


def _placed(entry: KnownPlugin, path: Path) -> KnownPlugin:
    """Return an entry whose path, if it requires one, does not depend on the working folder."""
    if entry.requires.startswith("."):
        return evolve(entry, requires=str((path.parent / entry.requires).resolve()))
    return entry
