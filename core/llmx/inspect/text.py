"""Figures of a corpus as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

from llmx.data.lengths import Lengths, bars
from llmx.inspect.figures import Corpus, Sample, SourceFigures
from llmx.page import short

LONGEST = 2_000
"""Characters of a sample that are printed."""


def to_text(corpus: Corpus) -> str:
    """Return figures, histograms and samples; the colours are for a terminal, `click.echo` drops them elsewhere."""
    parts = [_head(corpus), _table(corpus)]
    if remarks := list(corpus.remarks()):
        parts.append("\n".join(click.style(f"! {each}", fg="yellow") for each in remarks))
    parts.append("Documents by tokens" + _beyond(corpus) + "\n" + "\n".join(bars(_all(corpus, "tokens"), "tokens")))
    parts.append("Documents by characters\n" + "\n".join(bars(_all(corpus, "characters"), "characters")))
    parts.append(_scripts(corpus))
    parts += [_sample(sample) for sample in corpus.samples]
    return "\n\n".join(parts)


def _head(corpus: Corpus) -> str:
    rows = corpus.rows
    epoch = f"{rows['rows']:,} rows of {corpus.length:,} positions, packing {corpus.packing}"
    lines = [
        f"{corpus.title}: {corpus.total('documents'):,} documents, {corpus.tokens:,} tokens",
        f"  {', '.join(corpus.names)}",
        f"  an epoch: {epoch}, {corpus.padding_share:.1%} padding",
        f"  trained on: {corpus.trained_share:.1%} of the tokens",
    ]
    return "\n".join(lines)


def columns(corpus: Corpus) -> list[tuple[str, list[str]]]:
    """Return the table of sources, column by column, a row for each source and one for all."""
    sources = corpus.sources

    def column(heading: str, values: Sequence[int], total: int | None = None) -> tuple[str, list[str]]:
        return heading, [f"{value:,}" for value in (*values, sum(values) if total is None else total)]

    rows = [source.rows for source in sources]
    weights = [source.weight / (sum(each.weight for each in sources) or 1) for source in sources]
    return [
        ("source", [*(source.label for source in sources), "all"]),
        ("share", [*(f"{weight:.0%}" for weight in weights), "100%"]),
        column("documents", [source.documents for source in sources]),
        column("held out", [source.held_out_documents for source in sources]),
        column("tokens", [source.tokens.total for source in sources]),
        ("trained", [f"{share:.1%}" for share in (*(s.trained_share for s in sources), corpus.trained_share)]),
        column("longest", [s.tokens.longest for s in sources], max(s.tokens.longest for s in sources)),
        column("rows", [each.get("rows", 0) for each in rows]),
        ("padding", [f"{share:.1%}" for share in (*(s.padding_share for s in sources), corpus.padding_share)]),
        column("cut", [each.get("cut_documents", 0) for each in rows]),
        column("truncated", [each.get("truncated_documents", 0) for each in rows]),
        column("left out", [each.get("left_out_documents", 0) + each.get("left_out_rows", 0) for each in rows]),
        column("duplicates", [source.duplicates for source in sources]),
    ]


def _table(corpus: Corpus) -> str:
    shown = [(heading, cells if len(corpus.sources) > 1 else cells[:-1]) for heading, cells in columns(corpus)]
    lines = []
    for number in range(-1, len(shown[0][1])):
        row = []
        for place, (heading, cells) in enumerate(shown):
            width = max(len(heading), *map(len, cells))
            cell = heading if number < 0 else cells[number]
            row.append(cell.rjust(width) if place else cell.ljust(width))
        lines.append("  ".join(row).rstrip())
    return "\n".join(lines)


def _all(corpus: Corpus, name: str) -> Lengths:
    """Return the lengths of all sources as one."""
    found: list[Lengths] = [getattr(source, name) for source in corpus.sources]
    counts: Counter[int] = Counter()
    for each in found:
        counts.update(each.counts)
    return Lengths(counts, sum(each.total for each in found), max(each.longest for each in found))


def _beyond(corpus: Corpus) -> str:
    over = sum(source.tokens.above(corpus.length + 1) for source in corpus.sources)
    share = over / (corpus.total("documents") or 1)
    return f" ({over:,} or {share:.1%} are longer than a row of {corpus.length:,})"


def _scripts(corpus: Corpus) -> str:
    def line(source: SourceFigures) -> str:
        shares = [f"{name} {share:.1%}" for name, share in source.script_shares().items() if share >= 0.0005]
        return f"  {source.label}: {', '.join(shares)}"

    return "\n".join(["Characters by script, from the beginnings of documents", *map(line, corpus.sources)])


def _sample(sample: Sample) -> str:
    """Return a sample: what is trained on is green, special tokens are dim, what is cut off is struck through."""
    head = f"{sample.origin}: {sample.tokens:,} tokens, {sample.trained:,} trained on (green)"
    head = f"{sample.origin}: {sample.tokens:,} tokens, all trained on" if sample.plain else head
    shown, left = [], LONGEST
    for span in sample.spans:
        text = span.text[:left]
        left -= len(text)
        colour = "green" if span.trained and not sample.plain else None
        shown.append(click.style(text, fg=colour, dim=span.special or None, strikethrough=span.beyond or None))
        if not left:
            break
    rest = sample.tokens - sample.shown
    end = " …" + (f" and {short(rest)} tokens more" if rest else "") if rest or not left else ""
    return click.style(head, bold=True) + "\n" + "".join(shown) + end
