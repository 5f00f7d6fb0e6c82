"""A run's state or weights out of a folder, into a run that is there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmx import pretrained
from llmx.errors import CheckpointError, RecipeError
from llmx.folder import is_run
from llmx.train import checkpoint
from llmx.weights import read_weights, require_fitting

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.train.loop import Trainer


def restore(loop: Trainer, folder: Path) -> None:
    """Bring a run to what a folder holds: a run's newest checkpoint, a checkpoint, or the weights of a model.

    Raises:
        RecipeError: there is no such folder, or weights alone do not fit a model with adapters.
        CheckpointError: it is damaged, or of another model.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder: give a run, a checkpoint or a model folder")
    if is_run(folder):
        newest = checkpoint.latest(folder / "checkpoints")
        if newest is None:
            raise CheckpointError(f"{folder}: the run has no checkpoint yet")
        folder = newest
    if (folder / checkpoint.MANIFEST).exists():
        _checkpoint(loop, folder)
    else:
        _weights(loop.run, folder)


def _checkpoint(loop: Trainer, folder: Path) -> None:
    run = loop.run
    loop.resume(folder)
    if folder.resolve().parent != loop.checkpoints.resolve():  # another run's: what it kept is not here
        loop.saved_step = None
        run.state.best_loss = run.state.best_step = None
        run.state.epoch_steps = []


def _weights(run: Run, folder: Path) -> None:
    if run.adapters:
        raise RecipeError(f"{folder}: are the weights of a whole model, and the run has adapters: give a checkpoint")
    weights = dict(read_weights(folder))
    _require_tokenizer(run, folder)
    require_fitting(run.model, weights, folder)
    run.module.load_state_dict(weights)


def _require_tokenizer(run: Run, folder: Path) -> None:
    """Check that a folder's weights mean the ids of the run's tokenizer, where the folder says whose they are."""
    facts = pretrained.read_json(folder / pretrained.LLMX) if (folder / pretrained.LLMX).exists() else {}
    if "tokenizer_sha256" not in facts:
        return
    with tempfile.TemporaryDirectory() as scratch:
        named = None if run.template is None else (run.recipe.template, run.template)
        pretrained.save_tokenizer(Path(scratch), run.tokenizer, run.recipe.tokenizer.name, named)
        own = pretrained.tokenizer_hash(pretrained.tokenizer_files(Path(scratch)))
    if facts["tokenizer_sha256"] != own:
        raise CheckpointError(f"{folder}: its tokenizer is not the run's, so that its weights mean other ids")
