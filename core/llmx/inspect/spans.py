"""A document as the model reads it: its tokens as text again, special ones by name, what is trained on marked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmx.inspect.figures import Sample, Span
from llmx.protocols import Document, Tokenizer

if TYPE_CHECKING:
    from llmx.data.encode import Encoded, Encoder

MOST_SHOWN = 1_500
"""Tokens of a sample that are shown."""


def special_names(encoder: Encoder) -> dict[int, str]:
    """Return the names of the special tokens a document may have, by id."""
    tokenizer, template = encoder.tokenizer, encoder.template
    ends = (("<bos>", tokenizer.bos_id), ("<eos>", tokenizer.eos_id))
    tokens = (*template.specials, *template.stop) if template is not None else ()
    named = [*ends, *((token, tokenizer.special_id(token)) for token in tokens)]
    return {id_: name for name, id_ in named if id_ is not None}


def sample_of(document: Document, encoded: Encoded, source: str, encoder: Encoder, length: int, *, cut: bool) -> Sample:
    """Return a document with the marks of its tokens.

    Args:
        length: positions of a row.
        cut: whether what is longer than a row is never read, as with chats.
    """
    ids = encoded.ids.tolist()
    trained = [True] * len(ids) if encoded.trained is None else encoded.trained.tolist()
    row = length + 1 if cut else len(ids)
    spans = spans_of(ids[:MOST_SHOWN], trained, row, special_names(encoder), encoder.tokenizer)
    return Sample(document.origin, source, len(ids), sum(trained), min(len(ids), MOST_SHOWN), spans)


def spans_of(
    ids: Sequence[int], trained: Sequence[bool], row: int, names: dict[int, str], tokenizer: Tokenizer
) -> list[Span]:
    """Return tokens as text, split where they become special, trained or cut off, or cease to be."""
    spans: list[Span] = []
    places = ((id_, bool(trained[place]), place >= row) for place, id_ in enumerate(ids))
    # a special token is a span of its own; others belong together, for a character may be several tokens
    for key, group in itertools.groupby(places, lambda each: (names.get(each[0]), *each[1:])):
        name, counts, beyond = key
        members = [id_ for id_, *_ in group]
        if name is not None:
            spans += [Span(name, True, counts, beyond)] * len(members)
        elif text := tokenizer.decode(members):
            spans.append(Span(text, False, counts, beyond))
    return spans
