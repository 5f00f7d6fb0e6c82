"""From a run to a model folder, and from a checkpoint to a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from llmx import pretrained
from llmx.errors import CheckpointError
from llmx.pretrained import Pretrained
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train import checkpoint
from llmx.train.adapt import adapt, merged

if TYPE_CHECKING:
    from llmx.assembly import Run


def export(run: Run) -> Path:
    """Write `model/` with the weights that `checkpoint.export` asks for, and return it."""
    folder = run.folder / "model"
    names = {"model": run.recipe.model.name, "tokenizer": run.recipe.tokenizer.name}
    with _at_exported_step(run):
        run.hooks.announce("llmx_before_export", run=run)
        model = merged(run.model, run.adapters)
        pretrained.save(folder, model, cast(nn.Module, model).state_dict(), run.tokenizer, names)
        run.hooks.announce("llmx_after_export", run=run, path=folder)
    return folder


@contextlib.contextmanager
def _at_exported_step(run: Run) -> Iterator[None]:
    """Go back to the best step where the recipe exports that, and return to the last one, whose checkpoint is on disk.

    Weights and listeners go together: what a callback averages belongs to the step it was averaged at.
    """
    if run.recipe.checkpoint.export == "last" or run.state.best_step in (None, run.state.step):
        yield
        return
    assert run.state.best_step is not None
    _go_to(run, run.state.best_step)
    try:
        yield
    finally:
        _go_to(run, run.state.step)


def _go_to(run: Run, step: int) -> None:
    weights, state = checkpoint.load(run.folder / "checkpoints" / checkpoint.folder_name(step))
    run.load_weights(weights)
    run.hooks.load_state_dict(state["listeners"])


def load_checkpoint(folder: Path, recipe: Recipe, registry: Registry, device: str) -> Pretrained:
    """Return the model of a run that has not ended, from its newest checkpoint.

    Raises:
        CheckpointError: it has none yet.
    """
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{folder}: the run has no checkpoint yet; go on with: llmx run {folder} --resume")
    tokenizer = pretrained.load_tokenizer(folder / "tokenizer", registry)
    with torch.device("meta"):
        model, _ = adapt(recipe, recipe.model.build(vocab_size=tokenizer.vocab_size))
    weights, _ = checkpoint.load(newest)
    pretrained.load_weights(model, weights, newest)
    cast(nn.Module, model).to(device).eval()  # in place
    return Pretrained(model, tokenizer)
