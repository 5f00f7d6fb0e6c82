"""From a run to a model folder, and from a checkpoint to a model."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from llmx import pretrained
from llmx.errors import CheckpointError
from llmx.files import kept_bytes
from llmx.pretrained import Pretrained
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train import checkpoint
from llmx.train.adapt import adapt, merged

if TYPE_CHECKING:
    from llmx.assembly import Run


SAMPLES = "samples.jsonl"
"""File of the run folder with a row for each text: `{"step": int, "prompt": str, "text": str}`."""

ENDED = "ended_at_step"
"""Key of `llmx.json`: the step after which the run ended, the weights being those or the best."""


def export(run: Run) -> Path:
    """Write `model/` with the weights that `checkpoint.export` asks for, and return it."""
    folder = run.folder / "model"
    facts = {"model": run.recipe.model.name, "tokenizer": run.recipe.tokenizer.name, ENDED: run.state.step}
    named = None if run.template is None else (run.recipe.template, run.template)
    with _at_exported_step(run) as strangers:
        run.hooks.announce("llmx_before_export", leave_out=strangers, run=run)
        model = merged(run.model, zip(run.recipe.adapters, run.adapters, strict=True))
        pretrained.save(folder, model, cast(nn.Module, model).state_dict(), run.tokenizer, facts, named)
        run.samples = [(prompt, run.generate(prompt)) for prompt in run.prompts()]
        run.hooks.announce("llmx_after_export", leave_out=strangers, run=run, path=folder)
    _keep_samples(run)
    return folder


def _keep_samples(run: Run) -> None:
    """Add the texts of the exported model to `samples.jsonl`, from which the report takes them."""
    if not run.samples:
        return
    path = run.folder / SAMPLES
    with path.open("a", encoding="utf-8") as file:
        file.truncate(kept_bytes(path, run.state.step))
        told = {(row["step"], row["prompt"]) for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
        for prompt, text in run.samples:
            row = {"step": run.state.step, "prompt": str(prompt), "text": text}
            if (row["step"], row["prompt"]) not in told:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def exported_step(folder: Path) -> int | None:
    """Return the last step of the run whose end wrote the `model/` that a run folder holds; None if there is none."""
    if not (folder / "model" / pretrained.LLMX).exists():
        return None
    step: int | None = pretrained.read_json(folder / "model" / pretrained.LLMX).get(ENDED)
    return step


@contextlib.contextmanager
def _at_exported_step(run: Run) -> Iterator[list[str]]:
    """Go back to the best step where the recipe exports that, and return to the last one, whose checkpoint is on disk.

    Weights and listeners go together: what a callback averages belongs to the step it was averaged at. Those that
    joined the run later have nothing to say of that step, and are yielded.
    """
    if run.recipe.checkpoint.export == "last" or run.state.best_step in (None, run.state.step):
        yield []
        return
    assert run.state.best_step is not None
    strangers = _go_to(run, run.state.best_step)
    for name in strangers:
        sys.stderr.write(
            f"llmx: {name}: was not part of the run at step {run.state.best_step}, the best: exported without\n"
        )
    try:
        yield strangers
    finally:
        _go_to(run, run.state.step)


def _go_to(run: Run, step: int) -> list[str]:
    weights, state = checkpoint.load(run.folder / "checkpoints" / checkpoint.folder_name(step))
    run.load_weights(weights)
    return run.hooks.load_state_dict(state["listeners"])


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
    template = pretrained.load_template(folder / "tokenizer", registry, tokenizer)
    return Pretrained(model, tokenizer, template)
