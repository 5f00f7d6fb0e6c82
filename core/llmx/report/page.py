"""The page: facts and drawings put into one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from llmx.page import render_page, script_json, short
from llmx.report.curves import Drawing, draw_charts
from llmx.report.facts import Facts, differing
from llmx.report.figures import Figures

MARK = '<meta name="generator" content="llmx report">'
"""Stands near the top of every page of ours, and says that it may be replaced."""

COLOURS = 8
"""Colours of the style; further runs repeat them with dashes."""

NAMES = ("model.name", "model.preset", "data.name", "tokenizer.name", "optimizer.name", "scheduler.name")
"""Options that stand under the title where all runs agree on them."""

LONGEST = 4_000
"""Characters shown of a sample."""

NONE = "–"


def render(runs: Sequence[Facts]) -> str:
    """Return the page of one or several runs. What runs say is text: it is escaped, and no script of theirs runs."""
    drawings = draw_charts(runs)
    values = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "runs": runs,
        "common": common_names(runs),
        "rows": known_columns([figure_row(run.figures) for run in runs]),
        "best": best_columns(runs),
        "options": differing([run.options for run in runs]),
        "versions": version_rows(runs),
        "drawings": drawings,
        "data": Markup(script_json(page_data(runs, drawings))),
        "colours": COLOURS,
    }
    return render_page("llmx.report", MARK, values, {"text": option_text, "clip": clip})


# --- data of the script ---------------------------------------------------------------------------------------------


def page_data(runs: Sequence[Facts], drawings: Sequence[Drawing]) -> dict[str, Any]:
    """Return what the script draws from: the points of every line."""
    charts = []
    for drawing in drawings:
        lines = []
        for line in drawing.lines:
            points, means = line.curve.points, line.curve.means
            data = {
                "run": line.run,
                "label": line.label,
                "sparse": line.sparse,
                "dots": bool(line.dots),
                **columns(points),
            }
            lines.append({**data, "means": columns(means) if means else None})
        charts.append(
            {"log": drawing.chart.log, "zero": drawing.chart.zero, "smooth": drawing.chart.smooth, "lines": lines}
        )
    return {"runs": [run.name for run in runs], "charts": charts}


def columns(points: tuple[list[float], list[float], list[float]]) -> dict[str, Any]:
    """Return steps, tokens and values; tokens as one number where each step has equally many."""
    steps, tokens, values = points
    each = tokens[0] / steps[0] if steps[0] else 0
    even = all(math.isclose(t, s * each, rel_tol=1e-9) for s, t in zip(steps, tokens, strict=True))
    return {
        "x": [plain(step) for step in steps],
        "t": plain(each) if even else [plain(token) for token in tokens],
        "y": [float(f"{value:.5g}") if value == value else None for value in values],
    }


def plain(value: float) -> int | float:
    """Return a whole number without its ".0"."""
    return int(value) if value.is_integer() else value


# --- texts ----------------------------------------------------------------------------------------------------------


def figure_row(figures: Figures) -> dict[str, tuple[str, str]]:
    """Return the figures of a run as a person reads them, each with a remark or a unit, by their headings."""
    short_of = figures.steps_planned is not None and figures.steps_planned != figures.steps
    memory = figures.peak_memory_bytes
    return {
        "Best held-out loss": (
            number(figures.best_val_loss, ".4f"),
            "" if figures.best_val_step is None else f"step {figures.best_val_step:,}",
        ),
        "Final held-out loss": (number(figures.final_val_loss, ".4f"), ""),
        "Final train loss": (number(figures.final_train_loss, ".4f"), ""),
        "Steps": (f"{figures.steps:,}", f"of {figures.steps_planned:,}" if short_of else ""),
        "Tokens": (short(figures.tokens), ""),
        "Tokens/s": (number(figures.tokens_per_s, ",.0f"), ""),
        "Training time": (duration(figures.train_seconds), ""),
        "Peak memory": (NONE, "") if memory is None else (f"{memory / 2**30:.2f}", "GiB"),
        "Parameters": (NONE if figures.parameters is None else short(figures.parameters), ""),
    }


def common_names(runs: Sequence[Facts]) -> list[str]:
    """Return the names of the parts that all runs share."""
    found = [{run.options.get(path) for run in runs} for path in NAMES]
    return [str(*values) for values in found if len(values) == 1 and None not in values]


def known_columns(rows: Sequence[dict[str, tuple[str, str]]]) -> list[dict[str, tuple[str, str]]]:
    """Return the rows without the columns of which no run knows anything."""
    known = [heading for heading in rows[0] if any(row[heading][0] != NONE for row in rows)]
    return [{heading: row[heading] for heading in known} for row in rows]


def number(value: float | None, form: str) -> str:
    """Return a number in a form of `format`, or a dash."""
    return NONE if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """Return a time as "48 s", "12 min 5 s", "3 h 20 min"."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def best_columns(runs: Sequence[Facts]) -> dict[str, set[int]]:
    """Return the numbers of the runs that have the lowest losses and the highest speed, by heading."""
    wanted = {
        "Best held-out loss": [run.figures.best_val_loss for run in runs],
        "Final held-out loss": [run.figures.final_val_loss for run in runs],
        "Final train loss": [run.figures.final_train_loss for run in runs],
        "Tokens/s": [None if run.figures.tokens_per_s is None else -run.figures.tokens_per_s for run in runs],
    }
    found = {}
    for heading, values in wanted.items():
        known = [value for value in values if value is not None]
        found[heading] = {i for i, value in enumerate(values) if len(known) > 1 and value == min(known)}
    return found


def version_rows(runs: Sequence[Facts]) -> list[tuple[str, list[str], bool]]:
    """Return (name, version in each run, whether they differ)."""
    names = dict.fromkeys(name for run in runs for name in run.versions)
    rows = [(name, [run.versions.get(name, NONE) for run in runs]) for name in names]
    return [(name, values, len(set(values)) > 1) for name, values in rows]


def option_text(value: Any) -> str:
    """Return an option's value as a recipe writes it."""
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def clip(text: str) -> str:
    """Return a text that is not longer than a page should show."""
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
