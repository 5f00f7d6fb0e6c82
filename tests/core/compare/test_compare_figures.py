"""Figures: agreement, percentiles, throughput, intervals, differences; beside formulas written out another way."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from llmx.compare.agreement import agreement, similarity
from llmx.compare.figures import Scored, differences, interval, model_figures, throughput
from llmx.compare.judge import Judgement
from llmx.compare.page import LOW
from llmx.compare.questions import Question
from llmx.compare.reply import Reply, Row
from llmx.compare.table import MEANINGS, _aligned, columns, wide


def row(question: str, repeat: int = 0, began_s: float = 0.0, model: str = "m", **reply: object) -> Row:
    """Return a row."""
    return Row(f"{model}-{question}-{repeat}", model, question, repeat, began_s, Reply(**reply))  # type: ignore[arg-type]


def dice(one: str, other: str) -> float:
    """Return the overlap of trigrams by taking them off a list one by one."""
    first = [one[at : at + 3] for at in range(len(one) - 2)]
    second = [other[at : at + 3] for at in range(len(other) - 2)]
    common, left = 0, list(second)
    for gram in first:
        if gram in left:
            left.remove(gram)
            common += 1
    return 2 * common / (len(first) + len(second))


def test_similarity_is_that_of_the_formula() -> None:
    """Random texts of few letters, long and short; symmetric, 1 for equal, 0 where nothing is shared."""
    draw = random.Random(0)
    for _ in range(300):
        one, other = ("".join(draw.choices("abc ", k=draw.randint(3, 30))) for _ in range(2))
        assert similarity(one, other) == pytest.approx(dice(one, other) if one != other else 1)
        assert similarity(one, other) == similarity(other, one)
    assert similarity("", "") == 1
    assert similarity("", "a") == similarity("ab", "abc") == similarity("xyz", "abc") == 0
    assert similarity("今天天气很好", "今天天气不好") == pytest.approx(2 * 2 / 8)


def test_agreement_is_over_all_pairs() -> None:
    """Of three answers of which two are equal a third of the pairs is; one answer agrees with nothing."""
    found = agreement(["yes it is", "yes it is", "no"])
    assert found is not None
    assert found.equal == pytest.approx(1 / 3)
    assert found.alike == pytest.approx(1 / 3)
    assert agreement(["yes"]) is None


def test_the_interval_covers_what_it_should() -> None:
    """Of 300 samples of a known mean about 95% of the intervals hold it; of many values it is the normal law's."""
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        low, high = interval(draw.normal(0.3, 1, 40).tolist())
        assert low is not None
        assert high is not None
        hits += low <= 0.3 <= high
    assert 0.90 < hits / 300 < 0.985
    values = draw.normal(2, 0.5, 2_000)
    error = 1.96 * values.std() / len(values) ** 0.5
    assert interval(values.tolist()) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)
    assert interval(values.tolist()) == interval(values.tolist())
    assert interval([1.0] * 4) == (None, None)


def scores(model: str, values: Sequence[float]) -> list[Scored]:
    """Return answers with a rule score each."""
    return [Scored(row(str(at), model=model, text="x"), rules=value) for at, value in enumerate(values)]


def test_a_difference_is_paired() -> None:
    """A gap that is small beside the spread of the questions is sure where each question shows it."""
    draw = random.Random(0)
    base = [draw.random() * 0.9 for _ in range(30)]
    (found,) = differences({"a": scores("a", [each + 0.05 for each in base]), "b": scores("b", base)})
    assert (found.kind, found.one, found.other, found.questions) == ("rules", "a", "b", 30)
    assert found.mean == pytest.approx(0.05)
    assert found.sure
    shuffled = base[:]
    draw.shuffle(shuffled)
    (other,) = differences({"a": scores("a", [each + 0.05 for each in shuffled]), "b": scores("b", base)})
    assert other.mean == pytest.approx(0.05)
    assert not other.sure
    assert differences({"a": scores("a", [1.0]), "b": []}) == []


def test_figures_of_a_model() -> None:
    """Times, lengths, errors and scores of known answers; repeats count within their question."""
    answers = [
        Scored(row("1", 0, text="four", total_s=2.0, first_s=0.5, tokens=8, finish_reason="stop"), (), 1.0),
        Scored(row("1", 1, text="five!", total_s=4.0, first_s=1.5, tokens=8, finish_reason="length"), ("r",), 0.0),
        Scored(row("2", 0, text=" ", total_s=1.0, first_s=0.5, tokens=1), ("r",), 0.0, Judgement("k", None, "hm")),
        Scored(row("2", 1, error="gone")),
    ]
    found = model_figures("m", answers, 6)
    assert (found.answers, found.errors, found.asked, found.cut_off, found.empty) == (3, 1, 6, 1, 1)
    assert found.first_s_median == 0.5
    assert found.total_s_median == 2.0
    assert found.total_s_p95 == pytest.approx(2 + 0.9 * 2)
    assert found.tokens_per_s == statistics.median([4, 2, 1])
    assert found.chars_median == 4
    assert found.equal == 0
    assert found.scores["rules"].mean == 0.25  # the mean of 0.5 and 0, not of 1, 0 and 0
    assert found.scores["judge"].questions == 0
    assert found.scores["judge"].missing == 1


def test_throughput_is_over_the_time_in_which_anything_ran() -> None:
    """Answers that overlap count their time once, and a break between two runs counts not at all."""
    rows = [row("1", 0, 10.0, total_s=2.0, tokens=10), row("2", 0, 11.0, total_s=2.0, tokens=10)]
    assert throughput(rows) == pytest.approx(20 / 3)
    later = [*rows, row("3", 0, 10_000.0, total_s=1.0, tokens=4)]
    assert throughput(later) == pytest.approx(24 / 4)
    assert throughput([*rows, row("4", total_s=1.0)]) is None
    assert throughput([]) is None


def test_a_table_is_aligned_with_chinese() -> None:
    """A Chinese character takes two columns of a terminal."""
    lines = _aligned([["model", "a"], ["模型", "12"]])
    assert lines == ["model   a", "模型   12"]
    assert {wide(line) for line in lines} == {9}


def test_headings_have_their_unit_and_meaning() -> None:
    """What is measured says its unit; every heading is explained, as is every one that the page knows by name."""
    found = columns([model_figures("m", [Scored(row("1", text="four", total_s=2.0, first_s=0.5))], 1)])
    assert {"First (s)", "Total (s)", "Length (characters)"} <= set(found)
    assert {*found, *LOW} <= set(MEANINGS)


def test_judgements_that_all_failed_are_shown() -> None:
    """A column without a mean stays for what it says: how many have no score."""
    failed = Scored(row("1", text="x"), judgement=Judgement("k", None, "", "gone"))
    assert columns([model_figures("m", [failed], 1)])["By judge"] == [("–", "1 without")]


def test_a_question_has_its_answers_scored_once() -> None:
    """An answer that ended by an error has no score by rule, and breaks none."""
    from llmx.compare.figures import scored
    from llmx.compare.rules import Expect

    question = Question("1", ({"role": "user", "content": "?"},), rules=Expect(contains="x"))
    found = scored([row("1", text="x"), row("1", 1, error="gone")], [question], {}, {})
    assert [(each.rules, list(each.broken)) for each in found] == [(1.0, []), (None, [])]
