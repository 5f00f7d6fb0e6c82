"""`llmx compare`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from llmx.errors import RecipeError

if TYPE_CHECKING:
    from llmx.compare.config import Comparison
    from llmx.compare.results import Results
    from llmx.compare.work import Plan

OF_FOLDERS = ("ratings", "as_json")
"""Options that mean something to a comparison that is there."""


@click.command("compare")
@click.argument("models", type=click.Path(path_type=Path), metavar="MODELS")
@click.argument("questions", type=click.Path(path_type=Path), metavar="[QUESTIONS]", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to write.  [default: comparison]")
@click.option("--repeats", type=click.IntRange(1, 1000), default=1, show_default=True, help="Answers to each question.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Most tokens of an answer.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=1, show_default=True, help="Questions at once.")
@click.option("--judge", metavar="URL", help="Base URL of the judge, over that of the file.")
@click.option("--judge-model", metavar="NAME", help="The judge's name there.")
@click.option("--no-judge", is_flag=True, help="Leave the judge out.")
@click.option("--ratings", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Merge ratings.")
@click.option("--dry-run", is_flag=True, help="Check all and say what would be asked; ask and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    models: Path,
    questions: Path | None,
    out: Path | None,
    repeats: int,
    max_new_tokens: int | None,
    concurrency: int,
    judge: str | None,
    judge_model: str | None,
    no_judge: bool,
    ratings: tuple[Path, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ask the models of MODELS (a TOML file) the QUESTIONS (JSON lines): speed, agreement over repeats, scores.

    A model is a folder or a URL. Answers are written as they come: the same command goes on after a kill, and asks
    only what is new when models or questions were added. The page compare.html shows the answers side by side, to be
    rated from 1 to 5; MODELS may be the folder of a comparison, whose figures are then made again with --ratings.
    The exit code is 1 where a model gave no answer at all.

    \b
    llmx compare models.toml questions.jsonl --repeats 3 --out runs/compared
    llmx compare runs/compared --ratings ratings.json
    """
    from llmx.compare.ratings import merge
    from llmx.compare.results import read_plan

    if questions is None:
        if not models.is_dir():
            raise RecipeError(f"{models}: needs questions too: llmx compare {models} QUESTIONS.jsonl")
        _refuse_of_asking(models)
        plan = read_plan(models)
        keys = [row.rating_key for row in plan.answered.values()]
        for line in merge(models, ratings, keys) if ratings else []:
            click.echo(line, err=True)
        finish(plan, as_json=as_json)
        return
    if ratings:
        raise RecipeError("--ratings: belong to answers that are there: llmx compare FOLDER --ratings FILE")
    plan = make_plan(
        models, questions, out or Path("comparison"), repeats, max_new_tokens, (judge, judge_model, no_judge)
    )
    plan.check()
    if dry_run:
        click.echo(dry_text(plan))
        return
    results = finish(ask(plan, concurrency), as_json=as_json)
    if any(each.asked and not each.answers for each in results.figures):
        click.get_current_context().exit(1)


def _refuse_of_asking(folder: Path) -> None:
    """Refuse flags that say how is asked where nothing is.

    Raises:
        RecipeError: one is given.
    """
    context = click.get_current_context()
    given = [
        each.opts[0]
        for each in context.command.params
        if isinstance(each, click.Option)
        and each.name not in OF_FOLDERS
        and context.get_parameter_source(str(each.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise RecipeError(f"{', '.join(given)}: for asking, and {folder} is not asked again: give MODELS and QUESTIONS")


def make_plan(
    models: Path,
    questions: Path,
    out: Path,
    repeats: int,
    max_new_tokens: int | None,
    judge: tuple[str | None, str | None, bool],
) -> Plan:
    """Return what is asked by files and flags.

    Raises:
        RecipeError: with a line for each fault of either file.
    """
    from attrs import evolve

    from llmx.compare import read_comparison, read_questions
    from llmx.compare.work import Plan

    faults: list[str] = []
    comparison: Comparison | None = None
    asked = []
    try:
        comparison = read_comparison(models)
    except RecipeError as error:
        faults += error.faults
    try:
        asked = read_questions(questions)
    except RecipeError as error:
        faults += error.faults
    if comparison is None or faults:
        raise RecipeError(*faults)
    if max_new_tokens is not None:
        comparison = evolve(comparison, generate=evolve(comparison.generate, max_new_tokens=max_new_tokens))
    return Plan(_judged(comparison, *judge), asked, repeats, out)


def _judged(comparison: Comparison, url: str | None, model: str | None, without: bool) -> Comparison:
    """Return a comparison with the judge that the flags name."""
    from attrs import evolve

    from llmx.compare.config import JudgeOptions

    if without:
        if url or model:
            raise RecipeError("--no-judge: contradicts --judge")
        return evolve(comparison, judge=None)
    if url is None and model is None:
        return comparison
    given: dict[str, Any] = {name: value for name, value in (("url", url), ("model", model)) if value is not None}
    if comparison.judge is None and url is None:
        raise RecipeError("--judge-model: there is no judge: give --judge URL too")
    try:
        made = JudgeOptions(url=str(url)) if comparison.judge is None else comparison.judge
        return evolve(comparison, judge=evolve(made, **given))
    except ValueError as error:
        raise RecipeError(f"--judge: {error}") from None


def dry_text(plan: Plan) -> str:
    """Return what would be asked of whom."""
    rules = sum(each.rules is not None for each in plan.questions)
    lines = [f"{len(plan.questions):,} questions ({rules:,} with rules), {plan.repeats} answers each, to {plan.out}"]
    for model in plan.comparison.models:
        wanted, missing = len(plan.wanted[model.name]), len(plan.missing(model.name))
        done = f", {wanted - missing:,} are there" if missing < wanted else ""
        lines.append(f"  {model.name}: {model.path or model.url}: {missing:,} to ask{done}")
    if plan.comparison.judge is not None:
        lines.append(f"  judge: {plan.comparison.judge.url}")
    return "\n".join(lines)


def ask(plan: Plan, concurrency: int) -> Plan:
    """Ask what is missing of models and judge, and return the plan as it is written down."""
    from llmx.compare.results import with_judge, write_asked
    from llmx.compare.work import ask_all, find_judge, judge_all, to_stderr

    judge = find_judge(plan.comparison)
    plan.out.mkdir(parents=True, exist_ok=True)
    write_asked(plan, judge)
    rows = ask_all(plan, concurrency, to_stderr)
    judge_all(judge, rows, plan.questions, plan.out, concurrency, to_stderr)
    return with_judge(plan, judge)


def finish(plan: Plan, *, as_json: bool) -> Results:
    """Write and print the figures, write the page, and return what they show."""
    from llmx.compare.page import PAGE, write_page
    from llmx.compare.results import SUMMARY, results_of
    from llmx.compare.table import to_text
    from llmx.files import write_atomically
    from llmx.page import encodable

    results, width = results_of(plan), shutil.get_terminal_size().columns
    text = results.to_json()
    write_atomically(plan.out / SUMMARY, encodable(text))
    write_page(results, plan.out / PAGE)
    click.echo(encodable(text if as_json else f"{to_text(results, width)}\n\n{plan.out / PAGE}"))
    return results
