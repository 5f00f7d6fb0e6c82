"""Figures of a comparison: speed, length, errors, agreement, scores, and how sure their differences are."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import asdict, field, frozen

from llmx.compare.agreement import agreement
from llmx.compare.judge import Judgement
from llmx.compare.questions import Question
from llmx.compare.reply import Row
from llmx.compare.rules import broken_rules, rule_score, spoken

RESAMPLES = 10_000
FEWEST = 5
"""Questions below which no interval is given: it would be narrower than what is known."""

KINDS = ("rules", "judge", "people")
"""What an answer can be scored by."""


@frozen
class Scored:
    """An answer with what it is scored by.

    Attributes:
        broken: rules it does not meet, in words.
        rules: share of rules met; None where there are none.
        judgement: of the judge; None where there was none.
        people: mean of what people gave it, 1 to 5; None where nobody did.
    """

    row: Row
    broken: Sequence[str] = ()
    rules: float | None = None
    judgement: Judgement | None = None
    people: float | None = None

    @property
    def judge(self) -> float | None:
        """The judge's score, 1 to 5."""
        return None if self.judgement is None else self.judgement.score


@frozen
class Score:
    """A mean over questions, each the mean of its answers.

    Attributes:
        low, high: the middle 95% of 10,000 means of questions drawn anew with replacement; None below 5 questions.
        missing: answers that should have a score and have none.
    """

    mean: float
    questions: int
    low: float | None = None
    high: float | None = None
    missing: int = 0


@frozen
class ModelFigures:
    """What is known of one model; times in seconds, None where nothing is known."""

    name: str
    answers: int
    errors: int
    asked: int
    first_s_median: float | None
    first_s_p95: float | None
    total_s_median: float | None
    total_s_p95: float | None
    tokens_per_s: float | None
    chars_per_s: float | None
    throughput_tokens_per_s: float | None
    chars_median: float | None
    tokens_median: float | None
    cut_off: int
    empty: int
    equal: float | None
    alike: float | None
    scores: Mapping[str, Score] = field(factory=dict)


@frozen
class Difference:
    """How much higher one model scores than another over the questions that both have a score for."""

    kind: str
    one: str
    other: str
    mean: float
    questions: int
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def scored(
    rows: Sequence[Row],
    questions: Sequence[Question],
    judgements: Mapping[str, Judgement],
    people: Mapping[str, float],
) -> list[Scored]:
    """Return every answer with its scores; one that ended by an error has none."""
    rules = {question.id: question.rules for question in questions}
    found = []
    for row in rows:
        wanted = rules[row.question]
        if row.reply.error is not None:
            found.append(Scored(row))
            continue
        broken = broken_rules(row.reply.text, wanted) if wanted else []
        share = rule_score(len(broken), wanted) if wanted else None
        found.append(Scored(row, broken, share, judgements.get(row.key), people.get(row.rating_key)))
    return found


def model_figures(name: str, answers: Sequence[Scored], asked: int) -> ModelFigures:
    """Return the figures of one model's answers."""
    good = [each for each in answers if each.row.reply.error is None]
    replies = [each.row.reply for each in good]
    first = [reply.first_s for reply in replies if reply.first_s is not None]
    total = [reply.total_s for reply in replies]
    timed = [reply for reply in replies if reply.total_s > 0]
    agreements = [agreement(texts) for texts in _texts(good).values()]
    known = [each for each in agreements if each is not None]
    return ModelFigures(
        name=name,
        answers=len(good),
        errors=len(answers) - len(good),
        asked=asked,
        first_s_median=median(first),
        first_s_p95=percentile(first, 95),
        total_s_median=median(total),
        total_s_p95=percentile(total, 95),
        tokens_per_s=median([reply.tokens / reply.total_s for reply in timed if reply.tokens is not None]),
        chars_per_s=median([len(reply.text) / reply.total_s for reply in timed]),
        throughput_tokens_per_s=throughput([each.row for each in good]),
        chars_median=median([len(spoken(reply.text)) for reply in replies]),
        tokens_median=median([reply.tokens for reply in replies if reply.tokens is not None]),
        cut_off=sum(reply.finish_reason == "length" for reply in replies),
        empty=sum(not spoken(reply.text) for reply in replies),
        equal=statistics.fmean(each.equal for each in known) if known else None,
        alike=statistics.fmean(each.alike for each in known) if known else None,
        scores={kind: score for kind in KINDS if (score := _score(good, kind)) is not None},
    )


def _texts(answers: Sequence[Scored]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in answers:
        found.setdefault(each.row.question, []).append(spoken(each.row.reply.text))
    return found


def throughput(rows: Sequence[Row]) -> float | None:
    """Return tokens per second of the time in which any answer was under way; None where tokens are unknown."""
    if not rows or any(row.reply.tokens is None for row in rows):
        return None
    busy, until = 0.0, -math.inf
    for row in sorted(rows, key=lambda row: row.began_s):
        end = row.began_s + row.reply.total_s
        busy += max(0.0, end - max(until, row.began_s))
        until = max(until, end)
    return sum(row.reply.tokens or 0 for row in rows) / busy if busy else None


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


# --- scores ---------------------------------------------------------------------------------------------------------


def per_question(answers: Sequence[Scored], kind: str) -> dict[str, float]:
    """Return the mean score of each question's answers, of those that have one."""
    found: dict[str, list[float]] = {}
    for each in answers:
        value = getattr(each, kind)
        if value is not None:
            found.setdefault(each.row.question, []).append(float(value))
    return {question: statistics.fmean(values) for question, values in found.items()}


def _score(answers: Sequence[Scored], kind: str) -> Score | None:
    values = list(per_question(answers, kind).values())
    missing = sum(each.judgement is not None and each.judge is None for each in answers) if kind == "judge" else 0
    if not values:
        return Score(math.nan, 0, missing=missing) if missing else None
    return Score(statistics.fmean(values), len(values), *interval(values), missing)


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the middle 95% of the means of values drawn anew with replacement (Efron's percentile bootstrap)."""
    if len(values) < FEWEST:
        return None, None
    draw, given = np.random.default_rng(0), np.asarray(values)
    at_once = max(1, 2_000_000 // len(given))  # 16 MB of numbers at a time
    means = [
        given[draw.integers(0, len(given), (min(at_once, RESAMPLES - done), len(given)))].mean(axis=1)
        for done in range(0, RESAMPLES, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def differences(by_model: Mapping[str, Sequence[Scored]]) -> list[Difference]:
    """Return the difference of every two models in every kind of score, paired by question."""
    found = []
    for kind in KINDS:
        means = {name: per_question(answers, kind) for name, answers in by_model.items()}
        for one, other in itertools.combinations(means, 2):
            common = [question for question in means[one] if question in means[other]]
            gaps = [means[one][question] - means[other][question] for question in common]
            if gaps:
                found.append(Difference(kind, one, other, statistics.fmean(gaps), len(gaps), *interval(gaps)))
    return found


def to_plain(value: object) -> object:
    """Return figures as JSON values; a mean of nothing is None."""
    plain = asdict(value)  # type: ignore[arg-type]  # one of ours

    def clean(each: object) -> object:
        if isinstance(each, dict):
            return {name: clean(inner) for name, inner in each.items()}
        return None if isinstance(each, float) and math.isnan(each) else each

    return clean(plain)
