"""From a run to a model folder, and from a checkpoint to a model."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmx import pretrained
from llmx.base import MODELSCOPE, require_unchanged
from llmx.errors import CheckpointError
from llmx.files import fsync_folder, kept_bytes, temporary_beside
from llmx.lock import read_lock
from llmx.pretrained import Pretrained
from llmx.recipe import Base, Recipe
from llmx.registry import Registry
from llmx.specials import ends_of, kept_base
from llmx.train import checkpoint
from llmx.train.adapt import merged, merges, quantises
from llmx.train.cost import tell_cost
from llmx.train.device import choose_precision
from llmx.train.model import build_model, finish, is_partial, load_saved, meta_model

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.assembly import Run
    from llmx.protocols import Adapter, Model, Template, Tokenizer


SAMPLES = "samples.jsonl"
"""File of the run folder with a row for each text: `{"step": int, "prompt": str, "text": str}`."""

ENDED = "ended_at_step"
"""Key of `llmx.json`: the step after which the run ended, the weights being those or the best."""

ADAPTER_CONFIG = "adapter_config.json"

TRAINED = "trained.safetensors"
"""File of `adapter/` with the weights of a checkpoint, where they are not merged into `model/`."""


def export(run: Run) -> Path:
    """Write what `checkpoint.export` asks for, and return its folder: `model/`, with adapters `adapter/` besides, or
    that alone where `checkpoint.merge` keeps them apart."""
    with _at_exported_step(run) as strangers:
        run.hooks.announce("llmx_before_export", leave_out=strangers, run=run)
        folder = run.folder / "adapter"
        if run.adapters:
            _write_adapter(run, folder)
        if merges(run.recipe, run.adapters):
            folder = run.folder / "model"
            _write_model(run, folder)
        else:  # of an end before this one: it would be taken for the model
            shutil.rmtree(run.folder / "model", ignore_errors=True)
        run.samples = [(prompt, run.generate(prompt)) for prompt in run.prompts()]
        run.hooks.announce("llmx_after_export", leave_out=strangers, run=run, path=folder)
    _keep_samples(run)
    return folder


def _write_model(run: Run, folder: Path) -> None:
    model = merged(run.model, zip(run.recipe.adapters, run.adapters, strict=True))
    if quantises(run.adapters):
        tell_cost(run, model)
    save_model(folder, run.recipe, model, run.tokenizer, run.template, _facts(run))


def save_model(
    folder: Path,
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    template: Template | None,
    facts: dict[str, Any],
) -> None:
    """Write the model folder of a run; what its base says of special ids and generation is kept with its tokenizer."""
    named = None if template is None else (recipe.template, template)
    weights = cast(nn.Module, model).state_dict()
    pretrained.save(folder, model, weights, tokenizer, facts, named, base=kept_base(recipe))


def _write_adapter(run: Run, folder: Path) -> None:
    """Write `adapter/`: the last adapter that others can read, in their form; what is trained, where that is not merged
    and the base is in a folder of its own; and `llmx.json`."""
    temporary = temporary_beside(folder)
    try:
        for adapter in reversed(run.adapters):
            if hasattr(adapter, "save"):
                adapter.save(temporary, run.model)
                _name_base(temporary / ADAPTER_CONFIG, run.recipe.base)
                break
        if not merges(run.recipe, run.adapters):
            save_file({name: each.cpu().contiguous() for name, each in run.weights().items()}, temporary / TRAINED)
        (temporary / pretrained.LLMX).write_text(json.dumps(_facts(run), indent=2) + "\n", encoding="utf-8")
        fsync_folder(temporary)
        pretrained.replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_base(path: Path, base: Base | None) -> None:
    """Say in an adapter's config, in PEFT's form, which model it is for; of random weights there is none to name."""
    if base is None or not path.is_file():
        return
    name, revision = str(base.folder), None
    fetched = not Path(base.pretrained).is_absolute()
    if fetched and not base.pretrained.startswith(MODELSCOPE):  # PEFT fetches it as we do
        name, _, revision = base.pretrained.partition("@")
    config = pretrained.read_json(path) | {"base_model_name_or_path": name, "revision": revision}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts(run: Run) -> dict[str, Any]:
    return {"model": run.recipe.model.name, "tokenizer": run.recipe.tokenizer.name, ENDED: run.state.step}


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
    """Return the last step of the run whose end wrote the `model/` or `adapter/` of a run folder; None for none."""
    files = [folder / each / pretrained.LLMX for each in ("model", "adapter")]
    steps = [pretrained.read_json(file).get(ENDED) for file in files if file.exists()]
    return max((step for step in steps if step is not None), default=None)


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


def restored_model(
    folder: Path,
    recipe: Recipe,
    registry: Registry,
    vocab_size: int,
    weights: dict[str, Tensor],
    device: torch.device,
) -> tuple[Model, list[Adapter]]:
    """Return the model of a run with what a checkpoint holds of it, and the adapters that are on it.

    Raises:
        CheckpointError: the weights are of another model, or the base that the run began with has changed.
    """
    if not is_partial(recipe):
        model, adapters = meta_model(recipe, vocab_size)
        pretrained.load_weights(model, weights, folder)
        return finish(recipe, model, device), adapters
    require_unchanged(folder, read_lock(folder), recipe.base)
    precision = choose_precision(recipe.train.precision, device)
    model, adapters = build_model(recipe, registry, vocab_size, device, precision)
    try:
        load_saved(recipe, model, weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: does not fit its recipe: {str(error).splitlines()[0]}") from error
    return model, adapters


def load_checkpoint(folder: Path, recipe: Recipe, registry: Registry, device: torch.device) -> Pretrained:
    """Return the model of a run without `model/`: with the adapters of its end, or of its newest checkpoint.

    Raises:
        CheckpointError: it has none yet, or the base it began with has changed.
    """
    ended = folder / "adapter" / TRAINED
    newest = None if ended.exists() else checkpoint.latest(folder / "checkpoints")
    if newest is None and not ended.exists():
        raise CheckpointError(f"{folder}: the run has no checkpoint yet; go on with: llmx run {folder} --resume")
    weights = load_file(ended) if newest is None else checkpoint.load(newest)[0]
    tokenizer = pretrained.load_tokenizer(folder / "tokenizer", registry)
    template = pretrained.load_template(folder / "tokenizer", registry, tokenizer)
    model, _ = restored_model(folder, recipe, registry, tokenizer.vocab_size, weights, device)
    cast(nn.Module, model).eval()  # in place
    return Pretrained(model, tokenizer, template, ends_of(recipe, tokenizer, template))
