"""The loss curve as a PNG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmx.errors import PluginError
from llmx.page import write_as_ours
from llmx.report.curves import MOST_DOTS, MOST_POINTS
from llmx.report.facts import Facts
from llmx.report.series import Curve, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOFTWARE = "llmx report"
"""Stands in the file, and says that it may be replaced."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c2578f", "#a87900", "#555b66", "#3a97d4", "#7a4fb5")
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei")


def write_png(runs: Sequence[Facts], out: Path) -> Path:
    """Write the loss curves of runs and return where they are.

    Raises:
        PluginError: matplotlib is not installed.
        RecipeError: `out` holds something that is no picture of ours.
        LlmxError: `out` cannot be written.
    """
    try:
        from matplotlib import font_manager, rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise PluginError("--png: needs matplotlib: pip install 'llmx[plot]'") from None
    known = {font.name for font in font_manager.fontManager.ttflist}
    with rc_context({"font.family": [font for font in FONTS if font in known], "text.parse_math": False}):
        figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot(), runs)
        metadata = {"Software": SOFTWARE}

        def save() -> None:
            figure.savefig(out, format="png", metadata=metadata)

        write_as_ours(out, SOFTWARE.encode(), save)
    return out


def draw(axes: Axes, runs: Sequence[Facts]) -> None:
    """Draw train loss as a line and held-out loss as a dashed line with points, one colour a run."""
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        for metric, style in (("train/loss", "-"), ("val/loss", "--")):
            series = run.metrics.get(metric)
            if series is None or not series.finite():
                continue
            curve = thin(series, MOST_POINTS)
            plot(axes, curve, f"{'train' if style == '-' else 'held-out'}: {run.name}", colour, style)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def plot(axes: Axes, curve: Curve, label: str, colour: str, style: str) -> None:
    """Draw one curve; a long one as its means over its faint outline."""
    steps, _, values = curve.points
    if curve.means is not None:
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.6, label="_nolegend_")
        steps, _, values = curve.means
    marker = "o" if style == "--" and len(steps) <= MOST_DOTS else None
    axes.plot(steps, values, style, color=colour, linewidth=1.6, marker=marker, markersize=4, label=label)
