"""The page of a comparison: figures, answers side by side, and ratings from 1 to 5 by hand, in one HTML file."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from llmx.compare.agreement import FORMULA, similarity
from llmx.compare.figures import Scored, per_question
from llmx.compare.questions import Question
from llmx.compare.reply import digest
from llmx.compare.results import Results
from llmx.compare.rules import spoken
from llmx.compare.table import MEANINGS, SCORES, TITLES, columns, difference_lines
from llmx.files import write_atomically
from llmx.page import render_page, write_as_ours

MARK = '<meta name="generator" content="llmx compare">'
"""Stands near the top of every page of ours, and says that it may be replaced."""

PAGE = "compare.html"
COLOURS = 8
LONGEST = 20_000
"""Characters shown of an answer."""

LOW = ("First (s)", "Total (s)", "Errors", "Cut off")
"""Columns whose lowest figure is the best one."""


@frozen
class Card:
    """The answer of one model to one question, and its repeats.

    Attributes:
        key: what ratings of it are kept under; empty where there is nothing to rate.
        facts: what was measured and found of it, in words; they may tell whose it is.
    """

    model: int
    key: str
    text: str
    error: str
    facts: Sequence[str]
    others: Sequence[str]


@frozen
class Entry:
    """A question with its answers.

    Attributes:
        gap: difference between the best and the worst score, 0 to 1.
        alike: mean similarity of every two models' answers, 0 to 1.
    """

    question: Question
    cards: Sequence[Card]
    gap: float
    alike: float

    @property
    def tags(self) -> str:
        return json.dumps(self.question.tags, ensure_ascii=False)


def write_page(results: Results, out: Path) -> Path:
    """Write the page and return where it is.

    Raises:
        RecipeError: `out` holds something else.
        LlmxError: `out` cannot be written.
    """
    text = render(results)
    write_as_ours(out, MARK.encode(), lambda: write_atomically(out, text))
    return out


def render(results: Results) -> str:
    """Return the page. What models and questions say is text: it is escaped, and no script of theirs runs."""
    plan, names = results.plan, [each.name for each in results.figures]
    found = columns(results.figures)
    entries = entries_of(results)
    values = {
        "title": names[0] if len(names) == 1 else f"{len(names)} models",
        "id": digest(names, [question.written for question in plan.questions]),
        "names": names,
        "columns": found,
        "best": best(results),
        "about": about(results),
        "differences": difference_lines(results.differences),
        "notes": [f"{title}: {MEANINGS[title]}." for title in found if title in MEANINGS]
        + [f"{title}: {SCORES[kind]}, with the 95% interval." for kind, title in TITLES.items() if title in found],
        "formula": FORMULA if plan.repeats > 1 else "",
        "entries": entries,
        "tags": sorted({tag for question in plan.questions for tag in question.tags}),
        "cards": sum(bool(card.key) for entry in entries for card in entry.cards),
        "colours": COLOURS,
    }
    return render_page("llmx.compare", MARK, values)


def about(results: Results) -> list[str]:
    """Return what stands under the title."""
    plan, given = results.plan, results.plan.comparison.generate
    texts = [f"{len(plan.questions):,} questions"]
    texts += [f"{plan.repeats} answers to each"] if plan.repeats > 1 else []
    texts += [f"temperature {given.temperature:g}"] if given.temperature is not None else []
    texts += [f"up to {given.max_new_tokens:,} tokens", f"seed {given.seed}"]
    judge = plan.comparison.judge
    texts += [f"judge {judge.model}"] if judge is not None else []
    texts += [f"rated by {len(results.ratings)}"] if results.ratings else []
    return texts


def best(results: Results) -> dict[str, set[int]]:
    """Return the numbers of the models that have the best figure, by heading."""
    figures = results.figures
    wanted: dict[str, list[float | None]] = {
        "First (s)": [each.first_s_median for each in figures],
        "Total (s)": [each.total_s_median for each in figures],
        "Tokens/s": [each.tokens_per_s for each in figures],
        "Chars/s": [each.chars_per_s for each in figures],
        "Tokens/s at once": [each.throughput_tokens_per_s for each in figures],
    }
    for kind, title in TITLES.items():
        wanted[title] = [each.scores[kind].mean if kind in each.scores else None for each in figures]
    found = {}
    for title, values in wanted.items():
        known = [value for value in values if value is not None and value == value]
        top = (min if title in LOW else max)(known) if len(known) > 1 else None
        found[title] = {at for at, value in enumerate(values) if top is not None and value == top}
    return found


def entries_of(results: Results) -> list[Entry]:
    """Return every question with the answers of all models."""
    by_question: dict[str, dict[int, list[Scored]]] = {question.id: {} for question in results.plan.questions}
    for model, answers in enumerate(results.answers.values()):
        for each in answers:
            by_question[each.row.question].setdefault(model, []).append(each)
    return [_entry(question, by_question[question.id]) for question in results.plan.questions]


def _entry(question: Question, answers: Mapping[int, Sequence[Scored]]) -> Entry:
    cards = [_card(model, found) for model, found in answers.items()]
    texts = [card.text for card in cards if not card.error]
    pairs = [similarity(*pair) for pair in itertools.combinations(texts, 2)]
    gaps = [0.0]
    for kind, low, high in (("rules", 0, 1), ("judge", 1, 5), ("people", 1, 5)):
        values = [
            (mean - low) / (high - low) for each in answers.values() for mean in per_question(each, kind).values()
        ]
        gaps += [max(values) - min(values)] if values else []
    return Entry(question, cards, round(max(gaps), 4), round(statistics.fmean(pairs), 4) if pairs else 1.0)


def _card(model: int, answers: Sequence[Scored]) -> Card:
    """Return the card of a model's answers to a question: the first is shown and rated."""
    first = answers[0]
    reply = first.row.reply
    others = [each.row.reply.error or clip(spoken(each.row.reply.text)) for each in answers[1:]]
    key = "" if reply.error else first.row.rating_key
    return Card(model, key, clip(spoken(reply.text)), reply.error or "", facts_of(first), others)


def facts_of(answer: Scored) -> list[str]:
    """Return what is known of an answer besides its text."""
    reply, found = answer.row.reply, []
    if reply.error:
        return []
    found.append(f"{reply.total_s:.2f} s" + (f", first {reply.first_s:.2f} s" if reply.first_s is not None else ""))
    found += [f"{reply.tokens:,} tokens"] if reply.tokens is not None else []
    found += ["cut off"] if reply.finish_reason == "length" else []
    found += [f"rules {answer.rules:.2f}"] if answer.rules is not None else []
    found += [f"not met: {each}" for each in answer.broken]
    found += [_judged(answer)] if answer.judgement is not None else []
    found += [f"people {answer.people:.2f}"] if answer.people is not None else []
    return found


def _judged(answer: Scored) -> str:
    assert answer.judgement is not None
    said = answer.judgement.error or answer.judgement.said.strip()
    return f"judge {answer.judge}" if answer.judge is not None else f"judge: no score ({clip(said, 120)})"


def clip(text: str, longest: int = LONGEST) -> str:
    """Return a text that is not longer than a page should show."""
    return text if len(text) <= longest else text[:longest] + " …"
