"""`llmx eval`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.cli.models import load_model, model_options
from llmx.errors import RecipeError

if TYPE_CHECKING:
    from llmx.evaluation.loss import Score
    from llmx.generate.language_model import LanguageModel


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Texts or chats to measure on, whole; again for more sources. By default what the run held out.",
)
@click.option(
    "--tokens", type=click.IntRange(min=1), help="About how many tokens to read of each source; all by default."
)
@click.option("--tasks", metavar="NAME,...", help="Tasks of lm-evaluation-harness instead (needs llmx[lm-eval]).")
@click.option("--include-path", type=click.Path(path_type=Path), help="A folder with tasks of your own, in YAML.")
@click.option("--limit", type=click.IntRange(min=1), help="Most questions of each task.")
@click.option("--shots", type=click.IntRange(min=0), help="Examples before each question; by default the task's own.")
@click.option(
    "--chat", is_flag=True, help="Ask the questions of tasks as chats, by the template that trained the model."
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@model_options
def command(
    model: Path,
    overrides: tuple[str, ...],
    data: tuple[Path, ...],
    tokens: int | None,
    tasks: str | None,
    include_path: Path | None,
    limit: int | None,
    shots: int | None,
    chat: bool,
    as_json: bool,
    device: str,
    weights: str | None,
    adapter: str | None,
) -> None:
    """Measure the model of RUN: its loss on texts and chats, or its answers to tasks.

    The loss is in nats per token that training would count, each row read by itself; of chats those are the
    assistant's. RUN is a run folder, its model/, or a Hugging Face folder.

    \b
    llmx eval runs/my-run
    llmx eval runs/my-run --data book.txt --data chats.jsonl --json
    llmx eval runs/my-chats --data chats.jsonl data.loss_turns=last
    llmx eval runs/my-run --tasks my_task --include-path tasks/
    """
    import json

    from llmx.evaluation.tasks import names_of, run_tasks

    if tasks is None and (include_path or limit or shots is not None or chat):
        raise RecipeError("--include-path, --limit, --shots and --chat: are for --tasks: leave them out")
    if tasks is not None and (data or tokens):
        raise RecipeError("--data and --tokens: are for a loss: leave them out, or --tasks")
    if tasks is not None and overrides:
        raise RecipeError(f"{overrides[0]!r}: is for a loss, and --tasks takes none: leave it out")
    names = [] if tasks is None else names_of(tasks, include_path)
    loaded, name = load_model(model, device=device, weights=weights, adapter=adapter)
    if tasks is not None:
        found = run_tasks(loaded, name, names, say=_say, include_path=include_path, limit=limit, shots=shots, chat=chat)
        click.echo(json.dumps(found, ensure_ascii=False, indent=1) if as_json else _task_table(found))
        return
    measured = _measure(model, loaded, name, data, overrides, tokens)
    if as_json:
        click.echo(json.dumps({each.label: each.to_plain() for each in measured}, ensure_ascii=False, indent=1))
    else:
        click.echo(_table(measured))


def _say(line: str) -> None:
    click.echo(f"llmx: {line}", err=True)


def _measure(
    folder: Path,
    loaded: LanguageModel,
    name: str | None,
    data: Sequence[Path],
    overrides: Sequence[str],
    tokens: int | None,
) -> list[Score]:
    from llmx.evaluation.loss import scores, total
    from llmx.evaluation.sources import measurable, names_documents, recipe_of
    from llmx.registry import Registry

    recipe = recipe_of(folder, data, overrides, Registry())
    sources = measurable(recipe, loaded, held_out=not (data or names_documents(overrides)))
    found = scores(loaded.model if name is None else loaded.adapted[name], sources, tokens)
    return found if len(found) == 1 else [*found, total(found)]


def _table(measured: Sequence[Score]) -> str:
    width = max(len("source"), *(len(each.label) for each in measured))
    lines = [f"{'source':{width}}  {'loss':>8}  {'perplexity':>10}  {'bits/byte':>9}  {'tokens':>12}  {'documents':>9}"]
    for each in measured:
        bits = "-" if each.bits_per_byte is None else f"{each.bits_per_byte:.4f}"
        lines.append(
            f"{each.label:{width}}  {each.loss:8.4f}  {each.perplexity:10.4g}  {bits:>9}  {each.tokens:12,}  "
            f"{'-' if each.documents is None else f'{each.documents:,}':>9}"
        )
    return "\n".join(lines)


def _task_table(found: dict[str, Any]) -> str:
    rows = [(task, metric, value) for task, metrics in found.items() for metric, value in metrics.items()]
    width = max(len(task) for task, _, _ in rows)
    names = max(len(metric) for _, metric, _ in rows)
    return "\n".join(
        f"{task:{width}}  {metric:{names}}  {value:.4f}"
        if isinstance(value, float)
        else f"{task:{width}}  {metric:{names}}  {value}"
        for task, metric, value in rows
    )
