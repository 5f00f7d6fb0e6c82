"""Curves as the parts of a chart that needs no script: lines in a square of 1000 units, and labels at per cents.

The page stretches the square to whatever room there is, so nothing here knows a size in pixels; `page.js` draws into
the same square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from llmx.page import short, ticks
from llmx.report.facts import Facts
from llmx.report.series import Curve, Series, thin

SIDE = 1000.0
MOST_POINTS = 2_000
"""Points of one line; a screen has no more columns."""

PAGE_POINTS = 60_000
"""Points of all lines together, about 2 MB of page."""

FEWEST_POINTS = 100
MOST_OTHERS = 12
"""Charts of metrics this module does not know by name."""

SMALLEST = 1e-290
"""Room from which on a scale has round numbers; less is none."""

MOST_DOTS = 24
"""Evaluations up to which each is shown as a dot."""

FINE = 500
"""Points up to which a tenth of a unit is written: a short line shows it."""


@frozen
class Chart:
    """What one chart shows.

    Attributes:
        lines: (metric, label) of each line that every run has here.
        scale: what values are multiplied by.
        log: whether the switch to a logarithmic scale applies.
        zero: whether the scale begins at zero.
        smooth: whether the values are noisy, so that smoothing them makes sense.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    scale: float = 1.0
    log: bool = False
    zero: bool = False
    smooth: bool = True


CHARTS = (
    Chart("Loss", "nats per token", (("train/loss", "train"), ("val/loss", "held-out")), log=True),
    Chart("Learning rate", "", (("lr", ""),), zero=True, smooth=False),
    Chart("Gradient norm", "before clipping", (("grad_norm", ""),), zero=True),
    Chart("Throughput", "tokens a second", (("tokens_per_s", ""),), zero=True),
    Chart("Memory", "GiB", (("memory_bytes", ""),), scale=2.0**-30, zero=True),
    Chart("Utilisation", "% of the device's peak", (("mfu", ""),), scale=100.0, zero=True),
    Chart("Bits per byte", "held-out text", (("val/bits_per_byte", ""),), log=True),
)


@frozen
class Line:
    """One run's curve in a chart; `faint` is the outline behind a line of means."""

    run: int
    metric: str
    label: str
    curve: Curve
    main: str
    faint: str
    dots: str

    @property
    def sparse(self) -> bool:
        """Whether each point is shown: evaluations are few."""
        return self.metric.startswith("val/")


Ticks = list[tuple[float, str]]
"""Per cent of the way from the left or the top, and the label."""


@frozen
class Drawing:
    """A chart ready to be written."""

    chart: Chart
    lines: Sequence[Line]
    x_ticks: Ticks
    y_ticks: Ticks


def draw_charts(runs: Sequence[Facts]) -> list[Drawing]:
    """Return a drawing of each chart that any of the runs has values for."""
    charts = [chart for chart in (*CHARTS, *other_charts(runs)) if any(lines_of(chart, runs))]
    count = sum(1 for chart in charts for _ in lines_of(chart, runs))
    limit = max(FEWEST_POINTS, min(MOST_POINTS, PAGE_POINTS // max(1, count)))
    last = max((series.steps[-1] for run in runs for series in run.metrics.values()), default=1.0)
    return [draw(chart, runs, limit, max(last, 1.0)) for chart in charts]


def other_charts(runs: Sequence[Facts]) -> list[Chart]:
    """Return a chart for each metric that a callback of the user's added."""
    known = {metric for chart in CHARTS for metric, _ in chart.lines}
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in known)
    return [Chart(name, "", ((name, ""),)) for name in list(names)[:MOST_OTHERS]]


def lines_of(chart: Chart, runs: Sequence[Facts]) -> Iterable[tuple[int, str, str, Series]]:
    """Yield (run, metric, label, series) of each line of a chart."""
    for number, run in enumerate(runs):
        for metric, label in chart.lines:
            series = run.metrics.get(metric)
            if series is not None and series.finite():
                yield number, metric, label, series


def draw(chart: Chart, runs: Sequence[Facts], limit: int, last_step: float) -> Drawing:
    """Return a chart over steps, from 0 to `last_step`, on a linear scale."""
    found = [
        (run, metric, label, scaled(thin(series, limit), chart.scale))
        for run, metric, label, series in lines_of(chart, runs)
    ]
    low, high = span([value for *_, curve in found for value in curve.points[2]], chart.zero)

    def path(columns: tuple[list[float], list[float], list[float]], *, dots: bool = False) -> str:
        xs = [SIDE * x / last_step for x in columns[0]]
        ys = [SIDE * (high - y) / (high - low) for y in columns[2]]
        return path_of(xs, ys, dots=dots)

    lines = []
    for run, metric, label, curve in found:
        few = metric.startswith("val/") and len(curve.points[0]) <= MOST_DOTS
        dots = path(curve.points, dots=True) if few else ""
        faint = path(curve.points) if curve.means else ""
        lines.append(Line(run, metric, label, curve, path(curve.means or curve.points), faint, dots))
    return Drawing(
        chart=chart,
        lines=lines,
        x_ticks=[(100 * tick / last_step, short(tick)) for tick in ticks(0, last_step, 5)],
        y_ticks=[(100 * (high - tick) / (high - low), short(tick)) for tick in ticks(low, high, 5)],
    )


def scaled(curve: Curve, factor: float) -> Curve:
    """Return a curve with its values multiplied."""
    if factor == 1:
        return curve

    def times(columns: tuple[list[float], list[float], list[float]]) -> tuple[list[float], list[float], list[float]]:
        return columns[0], columns[1], [value * factor for value in columns[2]]

    return Curve(times(curve.points), times(curve.means) if curve.means else None)


def span(values: Iterable[float], zero: bool) -> tuple[float, float]:
    """Return the ends of a scale on which the values have a little room."""
    finite = [value for value in values if value == value]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.05 or abs(high) * 0.1
    if room < SMALLEST:
        room = 1.0
    return (low if zero and low == 0 else low - room), high + room


def path_of(xs: Sequence[float], ys: Sequence[float], *, dots: bool = False) -> str:
    """Return SVG path data through the points, broken where a value is NaN; with `dots` a point at each."""
    digits = 1 if len(xs) <= FINE else 0
    parts: list[str] = []
    run = 0
    for x, y in zip(xs, ys, strict=True):
        if y != y:
            parts += ["h0"] if run == 1 else []  # a point between two gaps: a line of no length is drawn as a dot
            run = 0
            continue
        parts.append(f"{'L' if run and not dots else 'M'}{x:.{digits}f} {y:.{digits}f}{'h0' if dots else ''}")
        run += 1
    return "".join([*parts, "h0"] if run == 1 and not dots else parts)
