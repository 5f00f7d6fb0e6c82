"""From a run to a model folder, and from a checkpoint to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmx import pretrained
from llmx.errors import CheckpointError
from llmx.pretrained import Pretrained
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train import checkpoint

if TYPE_CHECKING:
    from llmx.assembly import Run


def export(run: Run) -> Path:
    """Write `model/` with the weights that `checkpoint.export` asks for, and return it."""
    folder = run.folder / "model"
    names = {"model": run.recipe.model.name, "tokenizer": run.recipe.tokenizer.name}
    pretrained.save(folder, run.model, _weights(run), run.tokenizer, names)
    return folder


def _weights(run: Run) -> dict[str, Tensor]:
    if run.recipe.checkpoint.export == "best" and run.state.best_step is not None:
        weights, _ = checkpoint.load(run.folder / "checkpoints" / checkpoint.folder_name(run.state.best_step))
        return weights
    return run.weights()


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
        model = recipe.model.load()(recipe.model.options, vocab_size=tokenizer.vocab_size)
    weights, _ = checkpoint.load(newest)
    pretrained.load_weights(model, weights, newest)
    return Pretrained(model.to(device).eval(), tokenizer)
