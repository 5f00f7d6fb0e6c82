"""`llmx run`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.cli.common import first_rank, given_names, name_options, split_arguments, warn_of_broken

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.recipe import Recipe


@click.command("run")
@click.argument("arguments", nargs=-1, metavar="[RECIPE|RUN_DIR] [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; by default a new one under runs/.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run folder.")
@click.option("--locked", is_flag=True, help="Refuse when a plugin is not the one that lock.json of RUN_DIR says.")
@click.option("--dry-run", is_flag=True, help="Build on the meta device, print the plan, train and write nothing.")
@click.option("--hooks", multiple=True, metavar="FILE", help="Python file with hooks of this run; again for more.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the plan, as JSON.")
@name_options
def command(
    arguments: tuple[str, ...],
    out: Path | None,
    resume: bool,
    locked: bool,
    dry_run: bool,
    hooks: tuple[str, ...],
    as_json: bool,
    **names: Any,
) -> None:
    """Train a model from a recipe, names and overrides, in any order.

    \b
    llmx run                                              TinyLLM on this Python's documentation
    llmx run data.path=novel.txt train.steps=200          on a text of your own
    llmx run recipe.toml --optimizer adam optimizer.lr=1e-3
    llmx run runs/my-run --resume                         go on after a stop
    llmx run runs/my-run --locked --resume                only with the very plugins it began with

    Exit codes: 0 done; 1 failed while running; 2 a wrong recipe or argument; 3 a plugin is missing or broken;
    4 diverged; 130 and 143 stopped by SIGINT and SIGTERM after a checkpoint.
    """
    from llmx.api import layers_of, require_locked, resumed_source, start
    from llmx.recipe import Recipe
    from llmx.registry import Registry

    source, overrides = split_arguments(arguments)
    registry = Registry()
    warn_of_broken(registry)
    if resume:
        source, out = resumed_source(source, out)
    recipe = Recipe.resolve(layers_of(source, overrides=overrides, hooks=hooks, **given_names(names)), registry)
    if locked:
        require_locked(out if resume else source, recipe)
    elif resume and out is not None:
        _warn_of_drift(out, recipe)
    if dry_run:
        from llmx.plan import make_plan

        click.echo(make_plan(recipe).text(as_json=as_json))
        return
    # with --json, what loggers and callbacks print goes to stderr: stdout is for programs
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        run = start(recipe, registry, out, resume=resume)
    if run.world.main:
        _report(run, as_json=as_json)


def _warn_of_drift(folder: Path, recipe: Recipe) -> None:
    """Say on stderr, a line each, what is not as it was when a run began; `--locked` refuses instead."""
    from llmx.folder import is_run
    from llmx.lock import drift

    for line in drift(folder, recipe) if is_run(folder) and first_rank() else ():
        click.echo(f"llmx: {line}", err=True)


def _report(run: Run, *, as_json: bool) -> None:
    """Print how the run ended, texts it makes, and what to do next."""
    from llmx.report import PAGE

    state = run.state
    samples = run.samples
    if as_json:
        import json

        import attrs

        facts = {
            "folder": str(run.folder),
            **attrs.asdict(state),
            "samples": [(str(prompt), text) for prompt, text in samples],
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo()
    for prompt, text in samples:
        click.echo(click.style(str(prompt), dim=True) + ("" if isinstance(prompt, str) else "\n") + text)
        click.echo(click.style("—" * 20, dim=True))
    best = "" if state.best_loss is None else f", best validation loss {state.best_loss:.4f} at step {state.best_step}"
    made = "model" if (run.folder / "model").exists() else "adapter"
    why = f" ({run.stop_reason})" if run.stop_reason else ""
    click.echo(f"Done after step {state.step}{why}{best}. The {made} is in {run.folder / made}.")
    if (run.folder / PAGE).exists():
        click.echo(f"Curves, samples and the recipe are in {run.folder / PAGE}.")
    else:
        click.echo("No metrics were kept and no report was written: that takes --logger jsonl beside the others.")
    click.echo("\nNext:")
    llmx = _program()
    folder = shlex.quote(str(run.folder))
    asked = samples[0][0] if samples else "Once upon a time"
    words, chat = (asked.split()[:6], "") if isinstance(asked, str) else ([str(asked)], " --chat")
    click.echo(f"  {llmx} generate {folder} {shlex.quote(' '.join(words))}{chat} --stream")
    if chat:
        click.echo(f"  {llmx} chat {folder}")
        click.echo(f"  {llmx} serve {folder}")
    longer = f" train.steps={state.step * 2}" if run.stop_reason is None else ""
    click.echo(f"  {llmx} run {folder} --resume{longer}")
    click.echo(f"  {llmx} config show {folder} --origin")


def _program() -> str:
    """Return what calls the command again: by its path where it was called so and is not known by its name."""
    called = Path(sys.argv[0])
    if shutil.which("llmx") or called.name != "llmx":
        return "llmx"
    return shlex.quote(os.path.relpath(called))
