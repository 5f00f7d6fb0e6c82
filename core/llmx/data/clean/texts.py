"""One text made normal: line ends, control characters, Unicode form, white space."""

from __future__ import annotations

import re
import unicodedata

from llmx.data.clean.options import CleanOptions

LINE_ENDS = re.compile("\r\n?|\u2028|\u2029")
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff]"
    "|[" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000)) + "]"
)
"""C0 and C1 without tab and line ends, noncharacters, byte-order marks, and marks of annotations."""

TRAILING = re.compile(r"[^\S\n]+(?=\n|\Z)")
EMPTY_LINES = re.compile(r"\n{4,}")
SPACE = re.compile(r"\s+")


def clean_text(text: str, options: CleanOptions) -> str:
    """Return a text as it should be; clean text comes back as it is."""
    text = LINE_ENDS.sub("\n", text)
    if options.control:
        text = CONTROL.sub("", text)
    if options.normal_form != "none":
        text = unicodedata.normalize(options.normal_form, text)
    if options.whitespace:
        text = EMPTY_LINES.sub("\n\n\n", TRAILING.sub("", text)).strip("\n")
    return text


def key_text(text: str) -> str:
    """Return what two texts that are exact duplicates have in common: they differ in white space and form alone."""
    return SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def half_character(text: str) -> str | None:
    """Return half of a surrogate pair that a text holds, as JSON spells it; no UTF-8 can hold one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None
