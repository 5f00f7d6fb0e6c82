"""From the parts of a run to the figures of its corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from llmx.data.lengths import Lengths
from llmx.inspect.figures import Corpus, Sample, SourceFigures
from llmx.inspect.measure import Measure, count_all
from llmx.inspect.spans import sample_of
from llmx.protocols import Dataset, Document

if TYPE_CHECKING:
    from llmx.data.encode import Encoder
    from llmx.data.rows import Rows
    from llmx.data.split import Split
    from llmx.data.store import TokenStore


@frozen(eq=False)
class SourceParts:
    """What a run has of one source.

    Attributes:
        weight: share of the training rows, relative to that of the other sources.
        held_out: None where the recipe keeps none.
        rows: of the training documents.
    """

    label: str
    weight: float
    dataset: Dataset
    train: TokenStore
    held_out: TokenStore | None
    rows: Rows


def gather(
    title: str,
    names: Sequence[str],
    sources: Sequence[SourceParts],
    split: Split,
    encoder: Encoder,
    packing: str,
    held_out: Mapping[str, int] | None,
    samples: int,
    report: Callable[[int], None] = lambda _: None,
) -> Corpus:
    """Return the figures of all sources; reads every document once.

    Args:
        names: what decided the figures, in words.
        packing: as the recipe has it.
        held_out: what an evaluation reads, as `HeldOut.facts` says.
        samples: documents to show, of all sources together.
        report: called with the documents read so far.
    """
    length = sources[0].rows.length
    figures: list[SourceFigures] = []
    shown: list[Sample] = []
    before = 0
    for number, source in enumerate(sources):
        wanted = samples * (number + 1) // len(sources) - samples * number // len(sources)
        measure = count_all(_reported(split(source.dataset), before, report), wanted)
        before += measure.documents.total()
        figures.append(_figures(source, measure))
        shown += _samples(source.label, measure.samples(), encoder, length, packing)
    return Corpus(title, length, packing, names, figures, held_out, shown)


def _reported(
    documents: Iterator[tuple[str, Document]], before: int, report: Callable[[int], None]
) -> Iterator[tuple[str, Document]]:
    for number, each in enumerate(documents, before + 1):
        report(number)
        yield each


def _figures(source: SourceParts, measure: Measure) -> SourceFigures:
    stores = [source.train] if source.held_out is None else [source.train, source.held_out]
    lengths = np.concatenate([store.lengths() for store in stores])
    return SourceFigures(
        label=source.label,
        weight=source.weight,
        documents=measure.documents.total(),
        held_out_documents=measure.documents["val"],
        chats=measure.chats,
        duplicates=measure.duplicates(),
        characters=measure.characters,
        tokens=Lengths.of(lengths.tolist()),
        held_out_tokens=source.held_out.tokens if source.held_out is not None else 0,
        labels=int(np.maximum(lengths.astype(np.int64) - 1, 0).sum()),
        predicted=sum(store.predicted for store in stores),
        scripts=dict(measure.scripts),
        rows=source.rows.facts(),
    )


def _samples(
    label: str, documents: Sequence[Document], encoder: Encoder, length: int, packing: str
) -> Iterator[Sample]:
    for document, encoded in zip(documents, encoder(documents), strict=True):
        cut = packing != "stream" and encoded.trained is not None and not bool(encoded.trained.all())
        yield sample_of(document, encoded, label, encoder, length, cut=cut)
