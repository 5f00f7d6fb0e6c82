"""What a document says."""

from __future__ import annotations

from collections.abc import Iterator

from llmx.protocols import Document


def texts_of(document: Document) -> Iterator[str]:
    """Yield what a document says: its text, or what its turns say."""
    if document.text:
        yield document.text
    for turn in document.messages:
        yield from filter(None, (turn.reasoning, turn.content))
