"""A run folder: what is in it, and when it may be written.

`recipe.toml` as resolved, `lock.json` (what made the run), `tokenizer/`, `metrics.jsonl`, `checkpoints/`, and at
the end `model/`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from llmx import pretrained
from llmx.base import require_unchanged
from llmx.errors import RecipeError
from llmx.files import fsync, fsync_folder, temporary_beside, write_atomically
from llmx.layers import file_layers
from llmx.lock import LOCK, made_with, read_lock, with_parts
from llmx.protocols import Template, Tokenizer
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.toml import dumps

RECIPE = "recipe.toml"


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run."""
    return (folder / RECIPE).is_file() and (folder / LOCK).is_file()


def free_folder(recipe: Recipe) -> Path:
    """Return a folder under `runs/` that does not exist yet, named after the model and the data."""
    stem = f"{recipe.model.name}-{recipe.corpus}".replace(":", "-")
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
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RecipeError(f"{folder}: cannot be made, {nearest} is no folder one may write to: give another --out")


FIXED = ("model", "tokenizer", "data", "objective", "adapter")
FIXED_TRAIN = ("seed", "tokens_per_update", "precision", "weights")
"""What a run may not change on the way: the weights, the text or the arithmetic would be another run's."""


def as_begun(folder: Path, recipe: Recipe) -> Recipe:
    """Return a recipe with what "auto" became when the run of a folder began."""
    if recipe.train.tokens_per_update != "auto":
        return recipe
    began = file_layers(folder / RECIPE)[-1].values["train"]["tokens_per_update"]
    return attrs.evolve(recipe, train=attrs.evolve(recipe.train, tokens_per_update=began))


def require_same_run(folder: Path, recipe: Recipe, registry: Registry) -> None:
    """Check that a recipe resumes the run of a folder and does not begin another.

    Raises:
        RecipeError: it changes what a run cannot change; the message names each such value.
        CheckpointError: the weights that it began with are others now.
    """
    require_unchanged(folder, read_lock(folder), recipe.base)
    began = Recipe.resolve(file_layers(folder / RECIPE), registry).to_plain()
    now = recipe.to_plain()
    pairs = [(section, began[section], now[section]) for section in FIXED]
    pairs += [("train", {k: began["train"][k] for k in FIXED_TRAIN}, {k: now["train"][k] for k in FIXED_TRAIN})]
    pairs += [("optimizer", {"name": began["optimizer"]["name"]}, {"name": now["optimizer"]["name"]})]
    faults = [
        f"{folder}: the run began with {path} = {old!r}, not {new!r}: start a new run for that"
        for section, before, after in pairs
        for path, old, new in differences(section, before, after)
    ]
    if faults:
        raise RecipeError(*faults)


def differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, before, after) of every value in which two plain tables differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from differences(f"{path}.{key}", before.get(key), after.get(key))
    elif before != after:
        yield path, before, after


def create(
    folder: Path, recipe: Recipe, tokenizer: Tokenizer, template: Template | None, facts: Mapping[str, Any]
) -> None:
    """Write a new run folder in one step.

    Args:
        template: how the run's chats are written, if it has any.
        facts: what `lock.json` says besides versions: the data and the device.
    """
    require_new(folder)  # another process may have taken it while this one prepared its data
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        (temporary / RECIPE).write_text(_written(recipe, chats=template is not None), encoding="utf-8")
        (temporary / "tokenizer").mkdir()
        named = None if template is None else (recipe.template, template)
        pretrained.save_tokenizer(temporary / "tokenizer", tokenizer, recipe.tokenizer.name, named)
        fsync_folder(temporary / "tokenizer")
        lock = json.dumps({**made_with(recipe), **facts}, indent=1)
        (temporary / LOCK).write_text(lock + "\n", encoding="utf-8")
        fsync_folder(temporary)
        if folder.exists():  # it is empty, and may be a mount that cannot be replaced; the lock makes it a run
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == LOCK):
                path.rename(folder / path.name)
        else:
            temporary.rename(folder)
        fsync(folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rewrite_recipe(folder: Path, recipe: Recipe) -> None:
    """Put a recipe changed on resume, more steps say, in the place of the old one, and lock what it names more."""
    lock = json.dumps(with_parts(folder, recipe), indent=1)
    write_atomically(folder / RECIPE, _written(recipe, chats=False))
    write_atomically(folder / LOCK, lock + "\n")


def _written(recipe: Recipe, *, chats: bool) -> str:
    """Return the text of a resolved recipe. A template that nobody named and no chat was written with is not in it: a
    tokenizer that is learned beside a named one has its special tokens, and would be another one the next time."""
    values = recipe.to_plain()
    if not chats and "template.name" not in recipe.origins:
        values.pop("template", None)
    return dumps(values)
