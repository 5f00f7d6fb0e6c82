"""What is told of a corpus. Nothing here needs torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from llmx.data.lengths import Lengths

FEW_ROWS = 50
"""Rows from which on padding says something of the packing, and not just of the last row."""


@frozen
class Span:
    """A part of a sample.

    Attributes:
        special: whether it is a special token, by its name.
        trained: whether the model is to say it.
        beyond: whether it is cut off, for it is behind the end of the row.
    """

    text: str
    special: bool
    trained: bool
    beyond: bool


@frozen
class Sample:
    """A document as the model reads it.

    Attributes:
        tokens: of the whole document; `spans` end earlier where it is long.
        trained: tokens of the whole document that are trained on.
        shown: tokens that `spans` show.
    """

    origin: str
    source: str
    tokens: int
    trained: int
    shown: int
    spans: Sequence[Span]

    @property
    def plain(self) -> bool:
        """Whether every token is trained on, so that there is nothing to tell apart."""
        return self.trained == self.tokens


@frozen
class SourceFigures:
    """Figures of one source, its held-out documents included unless it is said.

    Attributes:
        weight: share of the training rows.
        chats: documents that are chats.
        duplicates: documents whose content another one had before.
        characters: of each document.
        tokens: of each document.
        labels: tokens that follow another of their document.
        predicted: of those, the ones that are trained on.
        scripts: characters by script, of the beginnings of the documents.
        rows: what an epoch of training reads and does not, as `llmx.data.rows.Rows.facts` says.
    """

    label: str
    weight: float
    documents: int
    held_out_documents: int
    chats: int
    duplicates: int
    characters: Lengths
    tokens: Lengths
    held_out_tokens: int
    labels: int
    predicted: int
    scripts: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def trained_share(self) -> float:
        """Part of the labels that counts."""
        return self.predicted / self.labels if self.labels else 0.0

    @property
    def duplicate_share(self) -> float:
        """Part of the documents that another one is equal to."""
        return self.duplicates / self.documents if self.documents else 0.0

    @property
    def padding_share(self) -> float:
        """Part of the positions of an epoch that hold nothing."""
        return self.rows["padding"] / self.rows["positions"] if self.rows.get("positions") else 0.0

    def script_shares(self) -> dict[str, float]:
        """Return the part of each script, the largest first."""
        total = sum(self.scripts.values()) or 1
        return {name: count / total for name, count in Counter(self.scripts).most_common() if count}


@frozen
class Corpus:
    """Figures of all sources of a recipe.

    Attributes:
        length: positions of a row.
        packing: how documents become rows.
        held_out: what an evaluation reads and does not; None where nothing is held out.
        names: what decided the figures: tokenizer, template, roles.
    """

    title: str
    length: int
    packing: str
    names: Sequence[str]
    sources: Sequence[SourceFigures]
    held_out: Mapping[str, int] | None
    samples: Sequence[Sample]

    def total(self, name: str) -> int:
        """Return the sum of a whole number over the sources."""
        return sum(getattr(source, name) for source in self.sources)

    @property
    def tokens(self) -> int:
        """Tokens of all sources."""
        return sum(source.tokens.total for source in self.sources)

    @property
    def rows(self) -> dict[str, int]:
        """What an epoch of each source reads and does not, added up."""
        totals: Counter[str] = Counter()
        for source in self.sources:
            totals.update(source.rows)
        return dict(totals)

    @property
    def trained_share(self) -> float:
        """Part of the labels of all sources that counts."""
        return self.total("predicted") / self.total("labels") if self.total("labels") else 0.0

    @property
    def padding_share(self) -> float:
        """Part of the positions of an epoch that hold nothing."""
        rows = self.rows
        return rows["padding"] / rows["positions"] if rows.get("positions") else 0.0

    def remarks(self) -> Iterator[str]:
        """Yield what a person should know before training, the gravest first."""
        for source in self.sources:
            at = f"{source.label}: " if len(self.sources) > 1 else ""
            rows = source.rows
            if left := rows.get("left_out_documents", 0):
                what = f"{left:,} of {rows['documents']:,} training documents have no token to train on"
                yield f"{at}{what} within a row: they are left out ({rows['left_out_tokens']:,} tokens)"
            if left := rows.get("left_out_rows", 0):
                yield f"{at}{left:,} rows have no token to train on: they are left out"
            if cut := rows.get("truncated_documents", 0):
                what = f"{cut:,} of {rows['documents']:,} chats are longer than a row of {self.length:,}"
                unread = f"their last {rows['truncated_tokens']:,} tokens are never read"
                yield f"{at}{what}: {unread}; a larger data.sequence_length reads more of them"
            if lost := rows.get("lost_turns", 0):
                yield f"{at}{lost:,} turns are not trained on: the template rewrites them once others follow"
            if source.duplicate_share >= 0.01:
                what = f"{source.duplicates:,} of {source.documents:,} documents are exact duplicates"
                yield f"{at}{what}: `llmx data clean` takes them out"
            if source.padding_share >= 0.1 and self.packing != "none" and rows["rows"] >= FEW_ROWS:
                yield f"{at}{source.padding_share:.0%} of the positions are padding: a shorter row wastes less"
        if self.held_out and (left := self.held_out.get("left_out_documents", 0)):
            yield f"held out: {left:,} documents have no token to predict: they are left out of evaluations"

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        sources = []
        for source in self.sources:
            plain: dict[str, Any] = attrs.asdict(source, recurse=False)
            plain |= {name: plain[name].summary() | {"sum": plain[name].total} for name in ("characters", "tokens")}
            plain |= {"scripts": {name: round(share, 4) for name, share in source.script_shares().items()}}
            shares = {"trained_share": source.trained_share, "duplicate_share": source.duplicate_share}
            sources.append({**plain, **shares, "padding_share": source.padding_share, "rows": dict(source.rows)})
        return {
            "length": self.length,
            "packing": self.packing,
            "tokens": self.tokens,
            "trained_share": self.trained_share,
            "rows": self.rows,
            "held_out": None if self.held_out is None else dict(self.held_out),
            "remarks": list(self.remarks()),
            "sources": sources,
            "samples": [attrs.asdict(sample) for sample in self.samples],
        }
