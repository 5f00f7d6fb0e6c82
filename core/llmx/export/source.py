"""What `llmx export` is given: a run, its `model/`, a Hugging Face folder, or a run at one of its steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmx import pretrained
from llmx.errors import RecipeError
from llmx.folder import is_run

if TYPE_CHECKING:
    from llmx.recipe import Recipe
    from llmx.registry import Registry

TRAINED = "trained.safetensors"
"""File of a run's `adapter/` with what was trained, where it was not merged (`llmx.train.export` writes it)."""


@contextmanager
def model_folder(given: Path, step: str | None, beside: Path) -> Iterator[Path]:
    """Give the model folder to export; one that is made from a checkpoint is gone afterwards.

    Args:
        step: "best", "last" or a number: of a run, the weights of that checkpoint. None: `model/` as the run wrote it.
        beside: an existing folder on a disk with room for a model that has to be made.

    Raises:
        RecipeError: there is no such folder, or no such step.
        CheckpointError: a checkpoint is damaged.
    """
    if not given.is_dir():
        raise RecipeError(f"{given}: no such folder: give a run folder or a model folder")
    if not is_run(given):
        if step is not None:
            raise RecipeError(f"--step {step}: {given} is no run folder, which alone has steps: leave it out")
        yield given
    elif step is not None:
        with _made(given, find_checkpoint(given, step), beside) as made:
            yield made
    elif (given / "model").is_dir():
        yield given / "model"
    elif (given / "adapter" / TRAINED).is_file():
        with _made(given, given / "adapter" / TRAINED, beside) as made:
            yield made
    else:
        raise RecipeError(f"{given}: has no model/, for the run has not ended: add --step last, or end it: "
                          f"llmx run {given} --resume")  # fmt: skip


@contextmanager
def _made(run: Path, weights: Path, beside: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".tmp-export-", dir=beside) as temporary:
        made = Path(temporary) / run.resolve().name
        save_weights(run, weights, made)
        yield made


def find_checkpoint(run: Path, step: str) -> Path:
    """Return the checkpoint that a user names.

    Raises:
        RecipeError: there is none.
        CheckpointError: none is whole.
    """
    from llmx.train import checkpoint

    folders = run / "checkpoints"
    newest = checkpoint.latest(folders)
    if newest is None:
        raise RecipeError(f"--step {step}: {run} has no checkpoint yet")
    if step == "last":
        return newest
    number = checkpoint.load(newest)[1]["train"]["best_step"] if step == "best" else int(step)
    if number is None:
        raise RecipeError(f"--step best: {run} was not evaluated yet: use --step last")
    found = folders / checkpoint.folder_name(number)
    if not found.is_dir():
        kept = ", ".join(str(int(each.name.removeprefix("step-"))) for each in checkpoint.step_folders(folders))
        raise RecipeError(f"--step {step}: {run} kept no checkpoint of step {number} (kept: {kept})")
    return found


def save_weights(run: Path, found: Path, out: Path) -> None:
    """Write a model folder with the weights that a file of a run holds, merged where the run has adapters.

    They are those of the step as they were trained: what a callback makes of them at the end, an average say, is in
    `model/` alone.

    Args:
        found: a checkpoint, or the file of `adapter/`.

    Raises:
        CheckpointError: the checkpoint is damaged, or the base has changed.
    """
    import torch
    from safetensors.torch import load_file

    from llmx.registry import Registry
    from llmx.train import checkpoint
    from llmx.train.adapt import merged
    from llmx.train.export import restored_model, save_model

    registry = Registry()
    recipe = _recipe(run, registry)
    tokenizer = pretrained.load_tokenizer(run / "tokenizer", registry)
    template = pretrained.load_template(run / "tokenizer", registry, tokenizer)
    weights = load_file(found) if found.is_file() else checkpoint.load(found)[0]
    cpu = torch.device("cpu")
    model, adapters = restored_model(run, recipe, registry, tokenizer.vocab_size, weights, cpu)
    model = merged(model, zip(recipe.adapters, adapters, strict=True))
    facts = {"model": recipe.model.name, "tokenizer": recipe.tokenizer.name}
    save_model(out, recipe, model, tokenizer, template, facts)


def _recipe(run: Path, registry: Registry) -> Recipe:
    """Return what a run's recipe says of the model alone: the plugins of the rest may be gone by now."""
    from llmx.layers import Layer, file_layers
    from llmx.recipe import Recipe

    wanted = ("model", "adapter", "tokenizer", "template", "train")
    layers = file_layers(run / "recipe.toml")
    return Recipe.resolve(
        [Layer(e.origin, {k: v for k, v in e.values.items() if k in wanted}) for e in layers], registry
    )
