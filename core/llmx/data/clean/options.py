"""What `llmx data clean` can be told."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen, validators

MOST_BYTES = 64 * 2**20
"""Bytes of one record; a longer one is rejected without being held, so that memory stays bounded."""


@frozen(kw_only=True)
class CleanOptions:
    """Options of a clean; a stopped one goes on only with the same."""

    fields: tuple[str, ...] = ()
    """Fields of a record that hold its text. Without any the usual ones are known: text, messages, instruction, …"""
    min_chars: int = field(default=5, validator=validators.ge(1))
    """Fewest characters of a record's text, all fields together. The default drops stubs and keeps short answers."""
    max_chars: int = field(default=1_000_000, validator=validators.ge(1))
    """Most characters of a record's text. The default is about a long novel; more is rarely one document."""
    near: float = field(default=0.8, validator=validators.and_(validators.ge(0), validators.le(1)))
    """Share of common shingles (Jaccard) from which two texts are near duplicates; 0 looks for exact ones only. At the
    default a paragraph with one sentence changed counts, an answer to another question does not."""
    shingle: int = field(default=3, validator=validators.ge(1))
    """Units of a shingle: words, or single characters in scripts that set no spaces. More tells texts apart more."""
    encoding: str | None = None
    """Encoding of all files. Without it UTF-8, and UTF-16, GB18030, Big5, … where that is certain."""
    separator: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """What stands between two texts of a .txt file; without one each file is one text, as for the dataset `text`."""
    normal_form: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form. NFC changes no look; NFKC also folds full-width letters and ligatures."""
    control: bool = True
    """Remove control characters other than tab and line feed, noncharacters and stray byte-order marks."""
    whitespace: bool = True
    """Remove blanks at the end of lines, more than two empty lines in a row, and blank lines at both ends; indentation
    stays."""
