"""A comparison's folder: what was asked, the answers, and the figures made of them again at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, frozen

from llmx.compare.agreement import FORMULA
from llmx.compare.config import structured
from llmx.compare.figures import Difference, ModelFigures, Scored, differences, model_figures, scored, to_plain
from llmx.compare.journal import read_entries
from llmx.compare.judge import Judge, Judgement, judge_offline, judgement_of
from llmx.compare.questions import counted, question_of
from llmx.compare.ratings import Ratings, kept_ratings, mean_ratings
from llmx.compare.reply import Row, row_of
from llmx.compare.work import ANSWERS, ASKED, JUDGEMENTS, Plan
from llmx.errors import RecipeError
from llmx.files import write_atomically

SUMMARY = "summary.json"
FORMAT = "llmx-compare-1"


@frozen
class Results:
    """What a comparison has found so far.

    Attributes:
        answers: by model in the order of the file, then by repeat and question.
    """

    plan: Plan
    answers: Mapping[str, Sequence[Scored]]
    figures: Sequence[ModelFigures]
    differences: Sequence[Difference]
    ratings: Ratings

    def to_json(self) -> str:
        """Return the figures as JSON."""
        values = {
            "format": FORMAT,
            "questions": len(self.plan.questions),
            "repeats": self.plan.repeats,
            "models": [to_plain(each) for each in self.figures],
            "differences": [{**asdict(each), "sure": each.sure} for each in self.differences],
            "raters": {name: len(given) for name, given in self.ratings.items()},
            "agreement": FORMULA,
        }
        return json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False)


def write_asked(plan: Plan, judge: Judge | None) -> None:
    """Write down what is asked, so that figures and page can be made without asking again; no key is in it."""
    comparison = plan.comparison
    values: dict[str, Any] = {
        "format": FORMAT,
        "repeats": plan.repeats,
        "who": dict(plan.who),
        "comparison": {
            "model": [_table(each) for each in comparison.models],
            "generate": _table(comparison.generate),
        },
        "questions": [each.written for each in plan.questions],
        "ids": [each.id for each in plan.questions],
    }
    if judge is not None:
        values["comparison"]["judge"] = {**_table(judge.options), "model": judge.api.model}
    write_atomically(plan.asked, json.dumps(values, ensure_ascii=False, indent=1))


def _table(options: Any) -> dict[str, Any]:
    found = asdict(options, filter=lambda _, value: value is not None)
    return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}


def read_plan(out: Path) -> Plan:
    """Return what was asked in a folder.

    Raises:
        RecipeError: it holds no comparison.
    """
    try:
        values = json.loads((out / ASKED).read_text(encoding="utf-8"))
        lines = [json.dumps(each) for each in values["questions"]]
        ids = values.get("ids") or [
            each["id"] for each in values["questions"]
        ]  # before there were ids, each had its own
        found = [question_of(line, name)[0] for line, name in zip(lines, ids, strict=True)]
        comparison, repeats = structured(values["comparison"], str(out / ASKED)), int(values["repeats"])
        who = {str(name): str(each) for name, each in values["who"].items()}
    except FileNotFoundError:
        raise RecipeError(f"{out}: holds no comparison ({ASKED}): give the --out of one, or a models.toml") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{out / ASKED}: cannot be read: {error}") from None
    return Plan(comparison, counted([each for each in found if each]), repeats, out, who)


def results_of(plan: Plan) -> Results:
    """Return the figures of all that a folder holds of a plan."""
    entries = read_entries(plan.out / ANSWERS, row_of)
    rows = {name: plan.rows_of(name, entries) for name in plan.wanted}
    ratings = kept_ratings(plan.out)
    judgements = _judgements(plan, read_entries(plan.out / JUDGEMENTS, judgement_of), [*chain(*rows.values())])
    people = mean_ratings(ratings)
    answers = {name: scored(found, plan.questions, judgements, people) for name, found in rows.items()}
    figures = [model_figures(name, found, len(plan.wanted[name])) for name, found in answers.items()]
    return Results(plan, answers, figures, differences(answers), ratings)


def _judgements(plan: Plan, known: Mapping[str, Judgement], rows: Sequence[Row]) -> dict[str, Judgement]:
    """Return the judgements by the keys of the answers."""
    if plan.comparison.judge is None:
        return {}
    judge = judge_offline(plan.comparison.judge)
    questions = {question.id: question for question in plan.questions}
    found = {}
    for row in rows:
        if row.reply.error is None:
            given = known.get(judge.key(questions[row.question], row.reply.text))
            if given is not None:
                found[row.key] = given
    return found


def with_judge(plan: Plan, judge: Judge | None) -> Plan:
    """Return the plan with the judge's model by its name, as it will be read again."""
    if judge is None:
        return plan
    options = evolve(judge.options, model=judge.api.model)
    return evolve(plan, comparison=evolve(plan.comparison, judge=options))
