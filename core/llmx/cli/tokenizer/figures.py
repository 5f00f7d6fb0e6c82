"""What `llmx tokenizer inspect` says of a tokenizer: its vocabulary, and how it does on texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llmx.protocols import Document, Tokenizer

BROKEN = "\ufffd"
LONGEST = 12
"""Tokens that are shown."""
BATCH = 1_000_000
"""Characters that are encoded at once."""
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff]")
LATIN = re.compile("[A-Za-z\u00c0-\u024f]")


def specials_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the special tokens by name, as far as what the tokenizer saves names them."""
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        path = Path(folder, "tokenizer.json")
        form = json.loads(path.read_bytes()) if path.exists() else {}
    found = {each["content"]: tokenizer.special_id(each["content"]) for each in form.get("added_tokens", ())}
    return {name: id_ for name, id_ in found.items() if id_ is not None}


def vocabulary(tokenizer: Tokenizer, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the figures that need no text.

    Args:
        tokens: what each token decodes to alone, by id.
    """
    words = [text for text in tokens if text.strip() and BROKEN not in text]
    return {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "special_tokens": specials_of(tokenizer),
        "after_a_space": sum(text.startswith(" ") for text in words),
        "with_cjk": sum(bool(CJK.search(text)) for text in words),
        "parts_of_characters": sum(BROKEN in text for text in tokens),
        "longest": sorted(dict.fromkeys(words), key=lambda text: (-len(text), text))[:LONGEST],
    }


class Fate:
    """What becomes of single tokens.

    Attributes:
        part: whether a token is a part of a character, by id.
        nothing: whether it says nothing: the unknown token.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        import numpy as np

        self.part: npt.NDArray[np.bool_] = np.array([BROKEN in text for text in tokens])
        self.nothing: npt.NDArray[np.bool_] = np.array([not text for text in tokens])


@define
class Count:
    """Sums over texts."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    parts: int = 0
    unknown: int = 0

    def add(self, text: str, ids: Sequence[int], fate: Fate) -> None:
        """Count one more text."""
        import numpy as np

        numbers = np.asarray(ids, dtype=np.int64)
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text.encode("utf-8", "surrogatepass"))
        self.tokens += len(ids)
        self.parts += int(fate.part[numbers].sum())
        self.unknown += int(fate.nothing[numbers].sum())

    def to_plain(self) -> dict[str, Any]:
        """Return the sums and their ratios."""
        tokens = max(self.tokens, 1)
        return {
            "documents": self.documents,
            "characters": self.characters,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": self.bytes / tokens,
            "characters_per_token": self.characters / tokens,
            "share_of_parts_of_characters": self.parts / tokens,
            "share_of_unknown": self.unknown / tokens,
        }


@define
class Trip:
    """Texts that do not come back from their ids as they were."""

    normalised: int = 0
    """Those that come back in another normal form of Unicode and are the same otherwise."""
    lost: int = 0
    example: dict[str, str] | None = None

    def add(self, document: Document, text: str, back: str) -> None:
        """Count one text."""
        if back == text:
            return
        if back in (unicodedata.normalize(form, text) for form in ("NFC", "NFKC")):
            self.normalised += 1
            return
        self.lost += 1
        at = next((n for n, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        example = {"origin": document.origin, "text": text[at : at + 40], "back": back[at : at + 40]}
        self.example = self.example or example

    def to_plain(self) -> dict[str, Any]:
        """Return the counts and an example."""
        return {"normalised": self.normalised, "lost": self.lost, "example": self.example}


def on_texts(tokenizer: Tokenizer, tokens: Sequence[str], documents: Iterable[Document], most: int) -> dict[str, Any]:
    """Return the figures over the first `most` characters: all of them, and line by line those of each script."""
    fate, whole, trip = Fate(tokens), Count(), Trip()
    scripts: dict[str, Count] = {}
    for batch in _batches(documents, most):
        texts = [text for _, text in batch]
        for (document, text), ids in zip(batch, tokenizer.encode_batch(texts), strict=True):
            whole.add(text, ids, fate)
            trip.add(document, text, tokenizer.decode(ids))
        lines = [line for text in texts for line in text.splitlines(keepends=True)]
        for line, ids in zip(lines, tokenizer.encode_batch(lines), strict=True):
            scripts.setdefault(script_of(line), Count()).add(line, ids, fate)
    found = {name: each.to_plain() for name, each in sorted(scripts.items()) if name}
    return {**whole.to_plain(), "scripts": found, "round_trip": trip.to_plain()}


def script_of(line: str) -> str:
    """Return "cjk" or "latin" for a line of which most letters are such, else the empty string."""
    cjk, latin = len(CJK.findall(line)), len(LATIN.findall(line))
    others = sum(each.isalpha() for each in line) - cjk - latin
    return "" if max(cjk, latin) <= others else "cjk" if cjk >= latin / 3 else "latin"  # a word has several letters


def _batches(documents: Iterable[Document], most: int) -> Iterator[list[tuple[Document, str]]]:
    from llmx.data.documents import texts_of

    size = 0
    batch: list[tuple[Document, str]] = []
    for document, text in ((each, text) for each in documents for text in texts_of(each)):
        batch.append((document, text[: most - size]))
        size += len(text)
        if size >= most:
            break
        if sum(len(each) for _, each in batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def split(tokenizer: Tokenizer, text: str) -> list[tuple[str, list[int]]]:
    """Return a text in pieces with their ids: tokens, and several of them where only together they are characters."""
    ids = tokenizer.encode(text)
    pieces: list[tuple[str, list[int]]] = []
    begin, shown = 0, ""
    for end in range(1, len(ids) + 1):
        now = tokenizer.decode(ids[:end])
        if (now.startswith(shown) and not now.endswith(BROKEN)) or end == len(ids):
            pieces.append((now[len(shown) :], ids[begin:end]))
            begin, shown = end, now
    return pieces
