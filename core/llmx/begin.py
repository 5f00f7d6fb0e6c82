"""How a run begins or goes on: assembled, brought to its newest checkpoint, and written down in its folder."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from llmx import folder as folders
from llmx.assembly import Run, assemble
from llmx.base import base_facts
from llmx.corpora import data_facts
from llmx.errors import RecipeError
from llmx.plan import require_memory
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train import checkpoint
from llmx.train.device import choose_device, choose_precision
from llmx.train.loop import Trainer
from llmx.train.parallel import join_world


def begin(recipe: Recipe, registry: Registry, folder: Path | None, *, resume: bool) -> tuple[Trainer, bool]:
    """Assemble a resolved recipe; nothing is written yet.

    Args:
        folder: the run folder; None takes a free one under `runs/`.
        resume: go on with the run in the folder, if there is one.

    Returns:
        The loop of the run, and whether the run goes on from what is in the folder.

    Raises:
        RecipeError: the folder holds another run, the run is done already, or it would take more memory than it may.
    """
    world = join_world()
    target = Path(os.path.normpath(folder)) if folder is not None else world.from_main(folders.free_folder(recipe))
    target = target if target.name else target.resolve()  # "." and ".."
    resumed = world.from_main(resume and folders.is_run(target))
    if not resumed and world.main:
        folders.require_new(target)
    # what "auto" became is part of the run: it resumes in the same arithmetic elsewhere
    device = choose_device(recipe.train.device)
    train = attrs.evolve(recipe.train, precision=choose_precision(recipe.train.precision, device))
    recipe = attrs.evolve(recipe, train=train)
    if resumed:
        recipe = folders.as_begun(target, recipe)
        folders.require_same_run(target, recipe, registry)
    run = assemble(recipe, registry, target, resumed=resumed, world=world)
    require_memory(run)
    trainer = Trainer(run)
    if resumed:
        newest = world.from_main(checkpoint.latest(target / "checkpoints"))  # none: stopped before its first
        if newest is not None:
            trainer.resume(newest)
        if run.state.step > run.sizes.steps:
            raise RecipeError(
                f"{target}: step {run.state.step} is done already: give train.steps={run.state.step} or more"
            )
    return trainer, resumed


def write_down(run: Run, *, resumed: bool) -> None:
    """Make the run folder, or put the recipe of a run that goes on in the place of the old one; every rank waits."""
    if resumed and run.world.main:
        folders.rewrite_recipe(run.folder, run.recipe)
    elif run.world.main:
        facts = {"id": run.id, **data_facts(run.tokens_folders), "device": str(run.device)}
        facts |= {} if run.recipe.base is None else {"base": base_facts(run.recipe.base)}
        folders.create(run.folder, run.recipe, run.tokenizer, run.template, facts)
    run.world.wait()
