"""A run folder: what is in it, and when it may be written.

`recipe.toml` as resolved, `lock.json` (what made the run), `tokenizer/`, `metrics.jsonl`, `checkpoints/`, and at
the end `model/`.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx import pretrained
from llmx.errors import CheckpointError, RecipeError
from llmx.files import fsync_folder, temporary_beside, write_atomically
from llmx.protocols import Tokenizer
from llmx.recipe import Recipe
from llmx.toml import dumps

RECIPE = "recipe.toml"
LOCK = "lock.json"


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run."""
    return (folder / RECIPE).is_file() and (folder / LOCK).is_file()


def free_folder(recipe: Recipe) -> Path:
    """Return a folder under `runs/` that does not exist yet, named after the model and the data."""
    stem = f"{recipe.model.name}-{recipe.dataset.name}".replace(":", "-")
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


def require_new(folder: Path) -> None:
    """Check that a new run may be written to `folder`.

    Raises:
        RecipeError: it holds another run, or files of another kind.
    """
    if is_run(folder):
        raise RecipeError(f"{folder}: holds another run: add --resume to go on with it, or give another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder}: is not empty and holds no run: give another --out")


def create(folder: Path, recipe: Recipe, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> None:
    """Write a new run folder in one step.

    Args:
        facts: what `lock.json` says besides versions: the data and the device.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        (temporary / RECIPE).write_text(dumps(recipe.to_plain()), encoding="utf-8")
        (temporary / "tokenizer").mkdir()
        pretrained.save_tokenizer(temporary / "tokenizer", tokenizer, recipe.tokenizer.name)
        fsync_folder(temporary / "tokenizer")
        lock = json.dumps({**versions(recipe), **facts}, indent=1)
        (temporary / LOCK).write_text(lock + "\n", encoding="utf-8")
        fsync_folder(temporary)
        if folder.exists():
            folder.rmdir()  # it is empty: `require_new` looked
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rewrite_recipe(folder: Path, recipe: Recipe) -> None:
    """Put a recipe changed on resume, more steps say, in the place of the old one."""
    write_atomically(folder / RECIPE, dumps(recipe.to_plain()))


def versions(recipe: Recipe) -> dict[str, Any]:
    """Return what made a run: llmx, Python, torch, and the distribution of each part it names."""
    plugins = {part.offer.plugin.distribution: part.offer.plugin.version for _, part in recipe.parts}
    return {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "plugins": dict(sorted(plugins.items())),
    }


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the `lock.json` of a run.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return dict(json.loads((folder / LOCK).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / LOCK}: cannot be read: {error}") from None
