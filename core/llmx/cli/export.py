"""`llmx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("export")
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["hf", "gguf", "peft"]),
    help="A Hugging Face folder, a file for llama.cpp, or the adapter alone.  [default: gguf if OUT ends so, or hf]",
)
@click.option(
    "--type",
    type=click.Choice(["f32", "bf16", "f16", "q8_0", "q4_0"]),
    help="Type of the weights; q8_0 and q4_0 are of gguf.  [default: as they are]",
)
@click.option(
    "--step",
    metavar="best|last|N",
    help="Weights of a checkpoint, as they were trained.  [default: those of model/]",
)
@click.option("--force", is_flag=True, help="Replace an export that is there.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
def command(source: Path, out: Path, step: str | None, dry_run: bool, **given: Any) -> None:
    """Write a model for other tools: transformers and vLLM, llama.cpp, PEFT.

    RUN is a run folder, its model/, or any Hugging Face folder of a Llama, Qwen2, Qwen2.5 or Qwen3.

    \b
    llmx export runs/novel novel.gguf --type q8_0
    llmx export runs/novel novel-bf16 --type bf16
    llmx export runs/tuned my-adapter --format peft
    """
    from llmx.errors import RecipeError
    from llmx.page import encodable

    if step is not None and step not in ("best", "last") and not step.isdecimal():
        raise RecipeError(f"--step {step}: give best, last, or the number of a step")
    from llmx.export.write import export
    from llmx.progress import progress

    with progress("Writing", "MB") as report:
        done = export(source, out, step=step, dry_run=dry_run, report=report, **given)
    for note in done.notes:
        click.echo(encodable(f"llmx: {note}"), err=True)
    if dry_run:
        for path, size in done.files.items():
            click.echo(encodable(f"{path}: {_size(size)}"))
    click.echo(encodable(f"{done.out}: {_size(done.nbytes)}{' would be written' if dry_run else ''}"))


def _size(count: int) -> str:
    """Return bytes as people read them."""
    if count < 10**6:
        return f"{count / 10**3:,.1f} kB"
    return f"{count / 10**6:,.1f} MB" if count < 10**10 else f"{count / 10**9:,.1f} GB"
