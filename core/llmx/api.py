"""The Python API: `llmx.run` trains a model, `llmx.load` uses one."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llmx.errors import LlmxError, PluginError, RecipeError
from llmx.layers import Layer, environment_layer, file_layers, override_layers
from llmx.recipe import Recipe
from llmx.registry import Registry

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.generate.language_model import LanguageModel

Source = str | Path | Mapping[str, Any] | None
"""A recipe: a file, a run folder, nested values, or None for the defaults."""

Weights = Literal["stored", "bf16", "int8", "int4"]
"""What weights are packed as for generating; "stored" is the type they have."""

Given = TypeVar("Given", bound=Source)


def layers_of(
    recipe: Source = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    hooks: Sequence[str] = (),
    **names: Any,
) -> list[Layer]:
    """Return the layers of a run in their order: the recipe, `LLMX_*` variables, names, overrides.

    Args:
        overrides: `["train.steps=200"]`, or `{"train.steps": 200}`.
        hooks: Python files whose hooks join those of the recipe.
        names: a part for a section: `optimizer="muon"`, `logger=["console", "wandb"]`; or a table of one.
    """
    if isinstance(recipe, Mapping):
        layers = [Layer("recipe", recipe)]
    elif recipe is None:
        layers = []
    else:
        path = Path(recipe)
        layers = file_layers(path / "recipe.toml" if path.is_dir() else path)
    layers.append(environment_layer())
    for section, value in names.items():
        layers.append(Layer(f"--{section}", {section: value if isinstance(value, str | Mapping) else list(value)}))
    if hooks:
        layers.append(Layer("--hooks", {"hooks": list(dict.fromkeys([*_hooks_so_far(layers), *hooks]))}))
    layers += _overriding(overrides)
    return [_with_absolute_hooks(layer) for layer in layers]


def _with_absolute_hooks(layer: Layer) -> Layer:
    """Take hooks files from the working folder, so that a run can be resumed from another one."""
    hooks = layer.values.get("hooks")
    if not (isinstance(hooks, list) and all(isinstance(path, str) for path in hooks)):
        return layer  # what is wrong with it is told when the recipe is resolved
    return Layer(
        layer.origin, {**layer.values, "hooks": list(dict.fromkeys(str(Path(path).resolve()) for path in hooks))}
    )


def _hooks_so_far(layers: Sequence[Layer]) -> list[str]:
    given = [layer.values["hooks"] for layer in layers if "hooks" in layer.values]
    return list(given[-1]) if given and isinstance(given[-1], list) else []


def _overriding(overrides: Sequence[str] | Mapping[str, Any]) -> list[Layer]:
    if isinstance(overrides, Mapping):
        return [_override(key, value) for key, value in overrides.items()]
    return override_layers(overrides)


def _override(key: str, value: Any) -> Layer:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    for part in reversed(key.split(".")):
        value = {part: value}
    return Layer(key, value)


def run(
    recipe: Source = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    out: str | Path | None = None,
    resume: bool = False,
    locked: bool = False,
    hooks: Sequence[str] = (),
    **names: str | Sequence[str],
) -> Run:
    """Train: resolve a recipe, assemble its parts, run to the last step, and write `model/`.

    Args:
        recipe: a recipe file, a run folder (with `resume`), nested values, or None for the defaults.
        overrides: values over the recipe's: `{"train.steps": 200}`.
        out: the run folder; None makes one under `runs/`.
        resume: go on from the newest whole checkpoint of the run folder.
        locked: refuse when a plugin, torch or a hooks file is not the one that the run folder `recipe` was made with.
        hooks: Python files with hooks of this run.
        names: a part for a section: `optimizer="muon"`.

    Raises:
        LlmxError: see `llmx.errors`; `StoppedError` after a signal.
    """
    registry = Registry()
    folder = Path(out) if out is not None else None
    if resume:
        recipe, folder = resumed_source(recipe, folder)
    resolved = Recipe.resolve(layers_of(recipe, overrides=overrides, hooks=hooks, **names), registry)
    if locked:
        require_locked(folder if resume else recipe, resolved)
    return start(resolved, registry, folder, resume=resume)


def resumed_source(recipe: Given, folder: Path | None) -> tuple[Given | Path, Path]:
    """Return the recipe and the folder of a run to go on with, from what a user gave of both.

    A folder given as `out` that holds no run yet begins one, so that one command can be repeated until it is done.

    Raises:
        RecipeError: there is no such run.
    """
    from llmx.folder import is_run

    if folder is None:
        if not isinstance(recipe, str | Path):
            raise RecipeError("--resume: needs the run to go on with: llmx run RUN_DIR --resume")
        if not is_run(Path(recipe)):
            raise RecipeError(f"{recipe}: holds no run to resume: give a run folder, or leave --resume out")
        return recipe, Path(recipe)
    return (folder if recipe is None and is_run(folder) else recipe), folder


def require_locked(source: Source, recipe: Recipe) -> None:
    """Check that a run folder's parts are made of what its `lock.json` says.

    Raises:
        RecipeError: the source is no run folder.
        PluginError: with one line for each thing that is another one now.
    """
    from llmx.folder import is_run
    from llmx.lock import drift

    if not isinstance(source, str | Path) or not is_run(Path(source)):
        raise RecipeError("--locked: needs the run whose lock.json counts: llmx run RUN_DIR --locked")
    lines = drift(Path(source), recipe)
    if lines:
        raise PluginError("\n".join(lines))


def start(recipe: Recipe, registry: Registry, folder: Path | None, *, resume: bool) -> Run:
    """Assemble a resolved recipe and train it in `folder`."""
    from llmx.begin import begin, write_down
    from llmx.train.export import export
    from llmx.train.parallel import leave_world

    trainer, resumed = begin(recipe, registry, folder, resume=resume)
    run = trainer.run
    write_down(run, resumed=resumed)
    try:
        trainer.train()
        if run.world.main:
            export(run)
        run.world.wait()
        run.hooks.announce("llmx_after_run", run=run)
    except BaseException as error:
        report_failure(run, error)
        raise
    if run.world.main:
        _write_report(run.folder)
    leave_world()
    return run


def _write_report(folder: Path) -> None:
    """Write `report.html` of a run that has metrics; a fault is told and does not spoil a run that is done."""
    from llmx.report import METRICS, PAGE, write_report

    if (folder / METRICS).exists():
        try:
            write_report([folder], folder / PAGE)
        except (LlmxError, OSError) as error:
            sys.stderr.write(f"llmx: no report was written: {error}\n")


def report_failure(run: Run, error: BaseException) -> None:
    """Announce that a run ends by an error; faults in doing so are added to it as notes, for the first one matters."""
    for fault in run.hooks.announce_to_each("llmx_run_failed", run=run, error=error):
        error.add_note(f"and while announcing it: {fault}")


def load(
    path: str | Path,
    *,
    sampler: Sequence[str] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    device: str = "cpu",
    weights: Weights | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    compile: bool = False,  # noqa: A002  # as torch calls it
) -> LanguageModel:
    """Load a run folder, its `model/`, or a Hugging Face folder, ready to generate.

    Args:
        path: a run that has no `model/` gives its base with its adapters, or its newest checkpoint.
        sampler: the chain by names; none takes the run's.
        overrides: `{"sampler.top-p.p": 0.9, "generate.max_new_tokens": 50}`.
        weights: pack the weights as "bf16", "int8" or "int4", or in the type they are stored in: faster, and then only
            for generating. None leaves the model as any other.
        adapters: by names of their own, runs with `adapter/` or folders in PEFT's form: more models over the one base,
            whose weights they share.
        compile: put the step of one sequence through torch.compile, with a C++ compiler, once for a shape: half a
            minute for a small model, two for 28 blocks. A CPU then reads the weights with less waiting, and a small
            model's many small operations are few. Sequences then take turns. The weights are packed, in the type they
            are stored in where `weights` is None.

    Raises:
        CheckpointError: the folder is incomplete or altered, or an adapter is not of this model.
        RecipeError: there is no such folder, a sampler or an option does not exist, or an override is of something that
            made the model and cannot change it any more.
    """
    import torch

    from llmx import pretrained
    from llmx.folder import is_run
    from llmx.generate.adapters import adapted_models, pack_all
    from llmx.generate.compiled import compile_steps
    from llmx.generate.language_model import LanguageModel
    from llmx.options import unstructure
    from llmx.train.device import choose_device
    from llmx.train.export import load_checkpoint

    folder, registry, device = Path(path), Registry(), str(choose_device(device))
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder: give a run folder or a model folder")
    merged = not is_run(folder) or (folder / "model").exists()
    recipe = _for_generating(folder, merged, registry, sampler, overrides)
    if merged:
        lies = folder / "model" if is_run(folder) else folder
        found = pretrained.load(lies, registry, device)
    else:
        lies = None
        found = load_checkpoint(folder, recipe, registry, torch.device(device))
    adapted = adapted_models(found, lies, adapters or {}, registry, torch.device(device))
    if weights is not None or compile:
        kept = None if weights == "stored" else weights
        pack_all(found.model, adapted, kept, torch.device(device), compiled=compile)
    if compile:
        compile_steps([found.model, *adapted.values()], torch.device(device))
    chain = [part.build(found.tokenizer) for part in recipe.samplers]
    links = [(part.name, unstructure(part.options)) for part in recipe.samplers]
    own = found.model, found.tokenizer, chain, recipe.generate, found.template
    return LanguageModel(*own, adapted, links, found.ends)


def _for_generating(
    folder: Path,
    merged: bool,
    registry: Registry,
    sampler: Sequence[str],
    overrides: Sequence[str] | Mapping[str, Any],
) -> Recipe:
    """Return what generating needs of a folder's recipe, and no more: the optimizer's plugin may be gone by now.

    Raises:
        RecipeError: an override is of something that made the model.
    """
    wanted = {"sampler", "generate", *(() if merged else ("model", "tokenizer", "adapter", "train"))}
    late = [each.origin for each in _overriding(overrides) if not wanted.issuperset(each.values)]
    if late:
        can = " and ".join(f"{section}.*" for section in sorted(wanted))
        raise RecipeError(f"{late[0]}: the model in {folder} is made already: only {can} can be given")
    names: dict[str, Any] = {"sampler": list(sampler)} if sampler else {}
    return Recipe.resolve([*saved_layers(folder, wanted), *layers_of(overrides=overrides, **names)], registry)


def saved_layers(folder: Path, sections: Container[str]) -> list[Layer]:
    """Return the layers of these sections in a run folder's recipe; none of a folder that is no run."""
    from llmx.folder import is_run

    files = file_layers(folder / "recipe.toml") if is_run(folder) else []
    return [Layer(each.origin, {k: v for k, v in each.values.items() if k in sections}) for each in files]
