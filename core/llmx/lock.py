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
from llmx.recipe import Recipe

LOCK = "lock.json"


def made_with(recipe: Recipe) -> dict[str, Any]:
    """Return what makes a run besides its recipe and its data.

    `python` and `torch` are versions; `plugins` has for each distribution that a part comes from its version and one
    SHA-256 over the files of the modules used, the core among them; `hooks` has one for each hooks file.
    """
    modules: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    for _, part in recipe.parts:
        plugin = part.offer.plugin
        found[plugin.distribution] = plugin.version
        modules.setdefault(plugin.distribution, set()).add(_top(plugin.module))
        if _top(part.offer.component.target) in _own_modules(plugin.distribution):
            modules[plugin.distribution].add(_top(part.offer.component.target))
    modules.setdefault("llmx", set()).add("llmx")
    found.setdefault("llmx", importlib.metadata.version("llmx"))
    plugins = {n: {"version": found[n], "sha256": _hash(map(_home, sorted(modules[n])))} for n in sorted(found)}
    return {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "plugins": plugins,
        "hooks": {path: _hash([Path(path)]) for path in recipe.hooks},
    }


def _top(target: str) -> str:
    return target.partition(":")[0].partition(".")[0]


def _own_modules(distribution: str) -> set[str]:
    """Return the top-level modules that a distribution installed by itself."""
    files = importlib.metadata.distribution(distribution).files or []
    return {file.parts[0].removesuffix(".py") for file in files}


def _home(module: str) -> Path:
    """Return the file or the folder of a top-level module; nothing is imported that is not yet."""
    spec = importlib.util.find_spec(module)
    assert spec is not None  # it offers a part of the run
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(str(spec.origin))


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
        return dict(json.loads((folder / LOCK).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / LOCK}: cannot be read: {error}") from None


def drift(folder: Path, recipe: Recipe) -> list[str]:
    """Return a line for each thing a run was made with that is another one now: torch, a plugin, a hooks file."""
    then, now = read_lock(folder), made_with(recipe)
    where = folder / LOCK
    lines = []
    if then["torch"] != now["torch"]:
        lines.append(f"{where}: torch was {then['torch']}, and is {now['torch']}")
    for name, plugin in now["plugins"].items():
        before = then["plugins"].get(name)
        if before is None:
            lines.append(f"{where}: {name} {plugin['version']} was not part of the run")
        elif before["version"] != plugin["version"]:
            back = f"pip install {name}=={before['version']}"
            lines.append(f"{where}: {name} was {before['version']}, and is {plugin['version']}: {back}")
        elif before["sha256"] != plugin["sha256"]:
            lines.append(f"{where}: {name} {plugin['version']}: its files are not those that the run was made with")
    for path, digest in now["hooks"].items():
        if then["hooks"].get(path) != digest:
            lines.append(f"{where}: hooks {path}: is not the file that the run was made with")
    return lines
