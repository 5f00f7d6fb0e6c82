"""Figures of a corpus as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from llmx.files import write_atomically
from llmx.inspect.figures import Corpus, SourceFigures
from llmx.inspect.text import columns
from llmx.page import render_page, short, ticks, write_as_ours

MARK = '<meta name="generator" content="llmx data inspect">'
"""Stands near the top of every page of ours, and says that it may be replaced."""

COLOURS = 8
SIDE = 1000.0
PARTS = 4
"""Bars to each doubling of the length."""

SCRIPTS = 7
"""Scripts with a colour of their own, the most frequent ones; the others share one."""

RARE = 0.005
"""Share up to which a script gets no colour of its own."""

READ = (
    ("read", "trained on"),
    ("context", "read only"),
    ("padding", "padding"),
    ("truncated", "truncated"),
    ("left-out", "left out"),
)


@frozen
class Bar:
    """A bar of a histogram; `parts` are (source, top, height) from the bottom up."""

    x: str
    width: str
    parts: Sequence[tuple[int, str, str]]
    words: str


@frozen
class Chart:
    """A histogram in a square of 1000 units; `row` is where the length of a row stands in it."""

    title: str
    unit: str
    bars: Sequence[Bar]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    row: float | None
    lines: Sequence[str]

    @property
    def words(self) -> str:
        """What the histogram says, for who cannot see it."""
        return "; ".join(self.lines)


@frozen
class Row:
    """A bar of shares; `parts` are (class, left, width, words)."""

    label: str
    words: str
    parts: Sequence[tuple[str, str, str, str]]

    @property
    def all(self) -> str:
        """What all parts say."""
        return ", ".join(words for *_, words in self.parts)


@frozen
class Block:
    """Bars of shares of one kind, one for each source."""

    title: str
    keys: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    note: str


def write_page(corpus: Corpus, out: Path) -> Path:
    """Write the page and return where it is.

    Raises:
        RecipeError: `out` holds something else.
        LlmxError: it cannot be written.
    """
    text = render(corpus)
    write_as_ours(out, MARK.encode(), lambda: write_atomically(out, text))
    return out


def render(corpus: Corpus) -> str:
    """Return the page. What documents say is text: it is escaped, and no script of theirs runs."""
    shown = columns(corpus)
    rows = list(zip(*(cells for _, cells in shown), strict=True))
    return render_page(
        "llmx.inspect",
        MARK,
        {
            "corpus": corpus,
            "sources": corpus.sources,
            "labels": [source.label for source in corpus.sources],
            "remarks": list(corpus.remarks()),
            "tiles": tiles(corpus),
            "columns": shown,
            "table": rows if len(corpus.sources) > 1 else rows[:-1],
            "charts": [
                histogram(corpus, "tokens", "Documents by tokens"),
                histogram(corpus, "characters", "Documents by characters"),
            ],
            "blocks": [reading(corpus), scripts(corpus)],
            "colours": COLOURS,
        },
    )


def tiles(corpus: Corpus) -> list[tuple[str, str, str]]:
    """Return (heading, figure, remark) of what matters most."""
    rows, documents = corpus.rows, corpus.total("documents")
    duplicates = corpus.total("duplicates")
    gone = rows.get("left_out_documents", 0) + rows.get("left_out_rows", 0)
    return [
        ("Tokens", short(corpus.tokens), f"{corpus.total('held_out_tokens') / (corpus.tokens or 1):.1%} held out"),
        ("Documents", f"{documents:,}", f"{corpus.total('chats'):,} chats" if corpus.total("chats") else ""),
        ("Trained on", f"{corpus.trained_share:.1%}", "of the tokens"),
        ("Rows an epoch", f"{rows.get('rows', 0):,}", f"of {corpus.length:,}, {corpus.packing}"),
        ("Padding", f"{corpus.padding_share:.1%}", "of the positions"),
        (
            "Truncated",
            f"{rows.get('truncated_documents', 0):,}",
            f"{short(rows.get('truncated_tokens', 0))} tokens lost",
        ),
        ("Left out", f"{gone:,}", "nothing to train on"),
        ("Duplicates", f"{duplicates / (documents or 1):.1%}", f"{duplicates:,} documents"),
    ]


# --- histograms -----------------------------------------------------------------------------------------------------


def histogram(corpus: Corpus, name: str, title: str) -> Chart:
    """Return how many documents of each source are how long, on a logarithmic scale."""
    found = [{low: (high, n) for low, high, n in getattr(s, name).octaves(PARTS)} for s in corpus.sources]
    bounds = sorted({(low, high) for each in found for low, (high, _) in each.items()})
    left, right = _log(bounds[0][0]), _log(bounds[-1][1] + 1)
    marked = name == "tokens"
    if marked:  # the row is shown even where no document comes near it
        left, right = min(left, _log(corpus.length)), max(right, _log(corpus.length) + 0.1)
    most = max(sum(each.get(low, (0, 0))[1] for each in found) for low, _ in bounds) * 1.12

    def across(length: int) -> float:
        return SIDE * (_log(length) - left) / (right - left)

    bars = []
    for low, high in bounds:
        counts = [each.get(low, (0, 0))[1] for each in found]
        if not sum(counts):
            continue
        parts, bottom = [], SIDE
        for number, count in enumerate(counts):
            height = SIDE * count / most
            bottom -= height
            if count:
                parts.append((number, f"{bottom:.1f}", f"{height:.1f}"))
        x, width = across(low), (across(high + 1) - across(low)) * 0.94
        bars.append(Bar(f"{x:.1f}", f"{width:.1f}", parts, bar_words(corpus, low, high, name, counts)))
    y_ticks = [(100 - 100 * tick / most, short(tick)) for tick in ticks(0, most, 4) if tick == int(tick)]
    row = round(across(corpus.length), 1) if marked else None
    return Chart(title, f"{name}, a logarithmic scale", bars, x_ticks(left, right), y_ticks, row, lines(corpus, name))


def bar_words(corpus: Corpus, low: int, high: int, name: str, counts: Sequence[int]) -> str:
    """Return what a bar says when it is pointed at."""
    head = f"{low:,} {name}" if low == high else f"{low:,} to {high:,} {name}"
    if len(counts) == 1:
        return f"{head}: {counts[0]:,}"
    each = [f"{s.label} {n:,}" for s, n in zip(corpus.sources, counts, strict=True) if n]
    return f"{head}: {sum(counts):,} ({', '.join(each)})"


def lines(corpus: Corpus, name: str) -> list[str]:
    """Return the figures of a histogram, a line for each source."""
    parts = []
    for source in corpus.sources:
        summary = getattr(source, name).summary()
        label = f"{source.label}: " if len(corpus.sources) > 1 else ""
        parts.append(label + ", ".join(f"{key} {value:,.0f}" for key, value in summary.items()))
    return parts


def _log(length: int) -> float:
    return math.log2(max(length, 0.5))


def x_ticks(left: float, right: float) -> list[tuple[float, str]]:
    """Return ticks at powers of two, no more than five, which a phone has room for."""
    powers = range(max(0, math.ceil(left)), math.floor(right) + 1)
    every = max(1, math.ceil(len(powers) / 5))
    return [(100 * (power - left) / (right - left), f"{2**power:,}") for power in powers if power % every == 0]


# --- shares ---------------------------------------------------------------------------------------------------------


def row_of(label: str, words: str, shares: Sequence[tuple[str, str, float]]) -> Row:
    """Return a bar of (class, name, amount)."""
    total, at, parts = sum(amount for *_, amount in shares) or 1.0, 0.0, []
    for kind, name, amount in shares:
        if amount > 0:
            width = SIDE * amount / total
            parts.append((kind, f"{at:.2f}", f"{width:.2f}", f"{name} {amount / total:.1%}"))
            at += width
    return Row(label, words, parts)


def reading(corpus: Corpus) -> Block:
    """Return what becomes of the positions of an epoch, and of the tokens that are not read."""

    def row(source: SourceFigures) -> Row:
        facts = source.rows
        filled = facts.get("positions", 0) - facts.get("padding", 0)
        trained = filled * source.trained_share
        amounts = (
            trained,
            filled - trained,
            facts.get("padding", 0),
            facts.get("truncated_tokens", 0),
            facts.get("left_out_tokens", 0) + facts.get("left_out_rows", 0) * corpus.length,
        )
        found = [(kind, name, amount) for (kind, name), amount in zip(READ, amounts, strict=True)]
        return row_of(source.label, f"{facts.get('rows', 0):,} rows", found)

    note = "The positions of one epoch, and behind them the tokens that no row reads."
    return Block("What an epoch reads", READ, [row(source) for source in corpus.sources], note)


def scripts(corpus: Corpus) -> Block:
    """Return which scripts the sources are written in."""
    totals: dict[str, float] = {}
    for source in corpus.sources:
        for name, share in source.script_shares().items():
            totals[name] = totals.get(name, 0) + share * source.weight
    least = RARE * sum(totals.values())
    ranked = [
        name for name in sorted(totals, key=lambda name: -totals[name]) if totals[name] > least and name != "other"
    ]
    kinds = {name: f"c{number}" for number, name in enumerate(ranked[:SCRIPTS])}
    keys = [(kind, name) for name, kind in kinds.items()] + [("padding", "marks and others")]

    def row(source: SourceFigures) -> Row:
        shares = source.script_shares()
        known = [(kind, name, shares.get(name, 0.0)) for name, kind in kinds.items()]
        rest = sum(share for name, share in shares.items() if name not in kinds)
        first = max(known, key=lambda each: each[2], default=("", "", 0.0))
        words = f"{first[2]:.0%} {first[1]}" if known else ""
        return row_of(source.label, words, [*known, ("padding", "marks and others", rest)])

    note = "Characters but white space, in the first 2,000 of each document."
    return Block("Scripts", keys, [row(source) for source in corpus.sources], note)
