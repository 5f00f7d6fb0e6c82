"""What a clean counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from attrs import Factory, define

from llmx.data.lengths import Lengths, bars

REASONS = {
    "unreadable": "the file ends in the middle of its packing",
    "encoding": "bytes that are not of the file's encoding",
    "broken-json": "not valid JSON",
    "no-object": "JSON, but no object with fields",
    "no-text-field": "none of the fields that hold text",
    "half-character": "half of a surrogate pair, which no UTF-8 can hold",
    "empty": "no text, or white space alone",
    "too-short": "fewer characters than --min-chars",
    "too-long": "more characters than --max-chars, or more bytes than can be held",
    "no-turns": "a chat that is no list of turns",
    "role": "a turn whose role none knows",
    "no-answer": "a chat without a turn of the assistant, or an empty answer",
    "duplicate": "what a kept record says, but for white space",
    "near-duplicate": "nearly what a kept record says (--near)",
}
"""Why a record is rejected, in the order in which it is looked at."""


@define
class Tally:
    """Counts of a clean so far.

    Attributes:
        kept: records kept.
        changed: of those, how many had a text that was changed.
        rejected: records rejected, by reason.
        encodings: files that are not UTF-8, by path.
        lengths: characters of each kept record's text.
    """

    kept: int = 0
    changed: int = 0
    rejected: Counter[str] = Factory(Counter)
    encodings: dict[str, str] = Factory(dict)
    lengths: Lengths = Factory(Lengths)

    @property
    def records(self) -> int:
        """Records that were read."""
        return self.kept + self.rejected.total()

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "records": self.records,
            "kept": self.kept,
            "changed": self.changed,
            "rejected": {reason: self.rejected[reason] for reason in REASONS if self.rejected[reason]},
            "encodings": self.encodings,
            "characters": self.lengths.to_json(),
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Tally:
        lengths = Lengths.from_json(found["characters"])
        return cls(found["kept"], found["changed"], Counter(found["rejected"]), found["encodings"], lengths)

    def text(self) -> str:
        """Return the counts for a person."""
        share = f" ({self.kept / self.records:.1%})" if self.records else ""
        lines = [f"{self.records:,} records read, {self.kept:,} kept{share}, {self.changed:,} of them changed"]
        lines += [f"{path}: converted from {encoding}" for path, encoding in self.encodings.items()]
        if self.rejected:
            lines.append(f"{self.rejected.total():,} rejected:")
            rows = [(self.rejected[reason], reason, what) for reason, what in REASONS.items() if self.rejected[reason]]
            lines += [f"{count:>9,}  {reason:14}  {what}" for count, reason, what in rows]
        if self.kept:
            figures = self.lengths.summary()
            lines += ["", f"Characters of a kept record: {', '.join(f'{k} {v:,}' for k, v in figures.items())}"]
            lines += bars(self.lengths, "characters")
        return "\n".join(lines)
