"""Figures of a comparison as words: a table for a terminal, and the same cells for the page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from llmx.compare.figures import Difference, ModelFigures, Score
from llmx.compare.results import Results
from llmx.page import short

NONE = "–"

TITLES = {"rules": "By rule", "judge": "By judge", "people": "By hand"}
MEANINGS = {
    "Answers": "of those asked for",
    "Errors": "answers that did not come",
    "First (s)": "seconds to the first text: median, and what 95% stay below",
    "Total (s)": "seconds to the end: median, and what 95% stay below",
    "Tokens/s": "of one answer, from the question to its end; median",
    "Chars/s": "the same in characters, for models whose tokens differ",
    "Tokens/s at once": "of all answers together, over the time in which any was under way",
    "Length (characters)": "of an answer; median",
    "Cut off": "answers that reached the most tokens",
    "Equal": "share of pairs of repeats that are the same text",
    "Alike": "similarity of pairs of repeats",
}
SCORES = {
    "rules": "share of rules met, 0 to 1",
    "judge": "mean of the judge's scores, 1 to 5",
    "people": "mean of what people gave, 1 to 5",
}


def columns(figures: Sequence[ModelFigures]) -> dict[str, list[tuple[str, str]]]:
    """Return by heading a cell and a remark for each model; columns of which nothing is known are left out."""
    found = {
        "Answers": [
            (f"{each.answers:,}", f"of {each.asked:,}" if each.answers < each.asked else "") for each in figures
        ],
        **{title: [_score(each.scores.get(kind)) for each in figures] for kind, title in TITLES.items()},
        "Errors": [(f"{each.errors:,}" if each.errors else NONE, "") for each in figures],
        "First (s)": [_pair(each.first_s_median, each.first_s_p95) for each in figures],
        "Total (s)": [_pair(each.total_s_median, each.total_s_p95) for each in figures],
        "Tokens/s": [(_number(each.tokens_per_s), "") for each in figures],
        "Chars/s": [(_number(each.chars_per_s), "") for each in figures],
        "Tokens/s at once": [(_number(each.throughput_tokens_per_s), "") for each in figures],
        "Length (characters)": [(_number(each.chars_median), "") for each in figures],
        "Cut off": [(f"{each.cut_off:,}" if each.cut_off else NONE, "") for each in figures],
        "Equal": [(NONE if each.equal is None else f"{each.equal:.0%}", "") for each in figures],
        "Alike": [(NONE if each.alike is None else f"{each.alike:.2f}", "") for each in figures],
    }
    return {title: cells for title, cells in found.items() if any(cell != NONE or remark for cell, remark in cells)}


def _number(value: float | None) -> str:
    return NONE if value is None else short(float(f"{value:.3g}"))


def _pair(median: float | None, p95: float | None) -> tuple[str, str]:
    return (NONE, "") if median is None or p95 is None else (f"{median:.3g}", f"p95 {p95:.3g}")


def _score(score: Score | None) -> tuple[str, str]:
    if score is None:
        return NONE, ""
    remarks = [] if score.low is None else [f"{score.low:.2f} to {score.high:.2f}"]
    remarks += [f"{score.missing} without"] if score.missing else []
    return NONE if math.isnan(score.mean) else f"{score.mean:.2f}", ", ".join(remarks)


def difference_lines(found: Sequence[Difference]) -> list[str]:
    """Return a line on every two models in every kind of score."""
    return [_difference(each) for each in found]


def _difference(each: Difference) -> str:
    better, worse = (each.one, each.other) if each.mean >= 0 else (each.other, each.one)
    head = f"{TITLES[each.kind]}: {better} over {worse} by {abs(each.mean):.2f}, {each.questions} questions"
    if each.mean == 0:
        head = f"{TITLES[each.kind]}: {each.one} and {each.other} are level, {each.questions} questions"
    if each.low is None or each.high is None:
        return f"{head}: too few to say how sure"
    low, high = sorted((each.low, each.high) if each.mean >= 0 else (-each.low, -each.high))
    return f"{head}; 95% interval {low:+.2f} to {high:+.2f}: {'sure' if each.sure else 'may be chance'}"


def to_text(results: Results, width: int) -> str:
    """Return the figures as a table and what of their differences is sure.

    Args:
        width: columns of the terminal; models stand side by side where their rows would be longer.
    """
    shown = columns(results.figures)
    lines = [["model", *shown]]
    for at, each in enumerate(results.figures):
        cells = (found[at] for found in shown.values())
        lines.append([each.name, *(f"{cell} ({remark})" if remark else cell for cell, remark in cells)])
    table = _aligned(lines)
    if max(map(wide, table)) > width:
        table = _aligned(list(zip(*lines, strict=True)))
    told = difference_lines(results.differences)
    return "\n".join([*table, "", *told] if told else table)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(wide, cells)) for cells in zip(*lines, strict=True)]
    found = []
    for line in lines:
        blanks = [" " * (width - wide(cell)) for cell, width in zip(line, widths, strict=True)]
        found.append("  ".join([line[0] + blanks[0], *map("".join, zip(blanks[1:], line[1:], strict=True))]).rstrip())
    return found


def wide(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    return sum(1 + (unicodedata.east_asian_width(each) in "WF") for each in text)
