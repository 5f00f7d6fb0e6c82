"""`lock.json` of a run: what it was made with, and whether that is what is here now."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmx.errors import CheckpointError
from llmx.given.component import GIVEN
from llmx.plugins import Plugin
from llmx.recipe import Recipe

LOCK = "lock.json"


def made_with(recipe: Recipe) -> dict[str, Any]:
    """Return what makes a run besides its recipe and its data.

    `python` and `torch` are versions; `plugins` has for each distribution that a part comes from its version and the
    SHA-256 of each module used, the core among them; `hooks` has one for each hooks file; `given` names the objects
    that a Python program gave, by their sections.
    """
    plugins: dict[str, dict[str, Any]] = {
        "llmx": {"version": importlib.metadata.version("llmx"), "modules": {"llmx": _hash(_homes("llmx"))}}
    }
    for _, part in recipe.parts:
        plugin = part.offer.plugin
        if plugin.distribution == GIVEN:  # objects of a program: nobody knows all that made them
            continue
        entry = plugins.setdefault(plugin.distribution, {"version": plugin.version, "modules": {}})
        for module in _modules(plugin, part.offer.component.target):
            if module not in entry["modules"]:
                entry["modules"][module] = _hash(_homes(module))
    given = {section: part.options.object for section, part in recipe.parts if part.name.startswith(f"{GIVEN}:")}
    return {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "plugins": dict(sorted(plugins.items())),
        "hooks": {path: _hash([Path(path)]) for path in recipe.hooks},
        **({"given": given} if given else {}),
    }


def _modules(plugin: Plugin, target: str) -> list[str]:
    """Return the top-level modules that a part uses: of its entry point, and of its target if the plugin owns that."""
    entry, code = (name.partition(":")[0].partition(".")[0] for name in (plugin.module, target))
    if code == entry:
        return [entry]
    files = importlib.metadata.distribution(plugin.distribution).files or []
    owned = {file.parts[0].removesuffix(".py") for file in files}
    beside = {home.parent for home in _homes(entry)} & {home.parent for home in _homes(code)}  # an editable install
    return [entry, code] if code in owned or (beside and f"{plugin.distribution}.dist-info" not in owned) else [entry]


def _homes(module: str) -> list[Path]:
    """Return the file or the folders of a top-level module; nothing is imported that is not yet."""
    spec = importlib.util.find_spec(module)
    assert spec is not None  # it offers a part of the run
    if spec.submodule_search_locations:
        return sorted(map(Path, spec.submodule_search_locations))
    return [Path(str(spec.origin))]


def _hash(homes: Iterable[Path]) -> str:
    """Return one SHA-256 over files, folders with all in them but what Python compiles by itself."""
    digest = hashlib.sha256()
    for home in homes:
        files = sorted(home.rglob("*")) if home.is_dir() else [home]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(home.parent).as_posix()
                digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the `lock.json` of a run.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        lock = dict(json.loads((folder / LOCK).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / LOCK}: cannot be read: {error}") from None
    lock["plugins"] = {name: _recorded(plugin) for name, plugin in lock.get("plugins", {}).items()}
    lock.setdefault("hooks", {})
    return lock


def _recorded(plugin: Any) -> dict[str, Any]:
    """Return what a lock says of a plugin; before files were recorded that was its version alone."""
    return {"modules": {}, **plugin} if isinstance(plugin, dict) else {"version": plugin, "modules": {}}


def drift(folder: Path, recipe: Recipe) -> list[str]:
    """Return a line for each thing a run was made with that is another one now: torch, a plugin, a hooks file.

    What was not part of the run when it was last written down is no drift: a resumed run may name a logger more.
    """
    then, now = read_lock(folder), made_with(recipe)
    where = folder / LOCK
    lines = []
    if then["torch"] != now["torch"]:
        lines.append(f"{where}: torch was {then['torch']}, and is {now['torch']}")
    for name, plugin in now["plugins"].items():
        before = then["plugins"].get(name, plugin)
        if before["version"] != plugin["version"]:
            back = f"pip install {name}=={before['version']}"
            lines.append(f"{where}: {name} was {before['version']}, and is {plugin['version']}: {back}")
            continue
        changed = [m for m, digest in plugin["modules"].items() if before["modules"].get(m, digest) != digest]
        if changed:
            modules = ", ".join(changed)
            lines.append(f"{where}: {name} {plugin['version']}: {modules}: not the files that the run was made with")
    for path, digest in now["hooks"].items():
        if then["hooks"].get(path, digest) != digest:
            lines.append(f"{where}: hooks {path}: is not the file that the run was made with")
    return lines


def with_parts(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the lock of a run with what its recipe names now and did not name before."""
    then, now = read_lock(folder), made_with(recipe)
    for name, plugin in now["plugins"].items():
        before = then["plugins"].setdefault(name, plugin)
        before["modules"] = {**plugin["modules"], **before["modules"]}
    return {**then, "hooks": {**now["hooks"], **then["hooks"]}}
