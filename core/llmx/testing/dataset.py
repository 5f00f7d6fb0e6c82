"""What a dataset promises: the same documents again and again, and a fingerprint that tells when they are others."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import define, frozen

from llmx.data.encode import Encoder
from llmx.data.prepare import prepare
from llmx.data.split import Split
from llmx.data.store import TokenStore, read_manifest
from llmx.data.stream import StreamRows
from llmx.errors import DataError, LlmxError
from llmx.protocols import Dataset, Document, Message, Piece
from llmx.recipe import Part
from llmx.testing.corpus import prose
from llmx.testing.elsewhere import in_another_process
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.samples import RECORDS, WRITERS
from llmx.testing.tiny import TinyTokenizer, surroundings

ROLES = ("system", "user", "assistant", "tool")
MOST = 200
"""Documents that are looked at: a corpus may be endless."""
LENGTH = 64


def again_the_same(subject: Subject) -> None:
    """Iterated again, by the same dataset or by a new one, it gives the same documents in the same order."""
    dataset: Dataset = subject.build()
    first = head(dataset)
    assert first, "it gives no document"
    same(first, head(dataset), "iterated again")
    same(first, head(subject.build()), "built again")


def two_at_once(subject: Subject) -> None:
    """Two iterators at once do not disturb each other, nor does one that was left before its end."""
    dataset: Dataset = subject.build()
    one, other = iter(dataset), iter(dataset)
    first = next(one)
    mixed = [next(other)]
    left = iter(dataset)
    next(left)
    for document in itertools.islice(one, MOST - 1):
        mixed += itertools.islice(other, 1)
        del document
    del left
    same(head(dataset), mixed, "iterated beside another iterator")
    assert mixed[0] == first, "two iterators at once share the documents between them"


def documents_are_texts(subject: Subject) -> None:
    """Each document is a `Document` of a text or of messages, which UTF-8 can spell, and its origin is no other's."""
    origins: dict[str, int] = {}
    for number, document in enumerate(head(subject.build())):
        where = f"document {number}"
        assert isinstance(document, Document), f"{where} is a {type(document).__name__}, not a llmx.protocols.Document"
        is_text(document.text, where, "its text")
        here = f"{where} of {document.origin!r}"
        assert document.text or document.messages, f"{here} has no text and no messages"
        assert not (document.text and document.messages), (
            f"{here} has a text and messages: a chat has no text of its own"
        )
        for message in (*document.messages, *document.rejected):
            is_message(message, here)
        json.dumps(document.tools).encode()  # a template writes them as JSON
        assert isinstance(document.origin, str), f"{where}: its origin is a {type(document.origin).__name__}, not a str"
        assert document.origin, f"{where} does not say where it came from"
        other = origins.setdefault(document.origin, number)
        assert other == number, f"documents {other} and {number} have one origin, {document.origin!r}"


def the_fingerprint_stays(subject: Subject) -> None:
    """The fingerprint is the same before and after reading, for a new dataset, and in another process."""
    dataset: Dataset = subject.build()
    first = dataset.fingerprint()
    assert isinstance(first, str), f"the fingerprint is {first!r}, not a str"
    assert first, "the fingerprint is empty"
    head(dataset)
    assert dataset.fingerprint() == first, f"reading the documents changed it from {first!r}"
    assert subject.build().fingerprint() == first, f"a new dataset of the same options does not have {first!r}"
    elsewhere = in_another_process(subject, "dataset_fingerprint")
    assert elsewhere == first, f"another process, where strings hash otherwise, has {elsewhere!r} and not {first!r}"


def the_fingerprint_follows_the_content(subject: Subject) -> None:
    """The fingerprint changes with the file, also where its length stays, and with a limit of documents."""
    path = own_file(subject)
    write = WRITERS.get(path.suffix)
    if write is None:
        raise NotApplicable(f"the kit can write no file that ends in {path.suffix!r}")
    part, texts = with_options(subject.part, path=path), list(prose()[:RECORDS])
    write(path, texts)
    first, later = part.build().fingerprint(), path.stat().st_mtime + 10
    write(path, [texts[0].swapcase(), *texts[1:]])
    os.utime(path, (later, later))
    assert part.build().fingerprint() != first, "letters of the file were exchanged, and the fingerprint is the same"
    write(path, texts + texts)
    os.utime(path, (later, later))
    assert part.build().fingerprint() != first, "the file has twice the length, and the fingerprint is the same"
    if getattr(part.options, "limit", 1) is None:
        limited = with_options(part, limit=1).build().fingerprint()
        assert part.build().fingerprint() != limited, "limit = 1 gives other documents, and the fingerprint is the same"


def a_missing_path_is_said(subject: Subject) -> None:
    """A path that does not exist is a `llmx.DataError` of one line that names it."""
    path = subject.scratch / f"nothing-here{own_file(subject).suffix}"
    part = with_options(subject.part, path=path)
    message = None
    try:
        head(part.build())
    except DataError as error:
        message = str(error)
    except (LlmxError, OSError) as error:
        raise AssertionError(f"a missing file is a {type(error).__name__}, not a llmx.DataError: {error}") from error
    assert message is not None, "a missing file is no error: the run would train on nothing"
    assert path.name in message, f"the error does not name {path.name}: {message}"
    assert "\n" not in message, f"the error has more than one line: {message}"


def no_document_in_both_splits(subject: Subject) -> None:
    """A document is trained on or held out, never both, and the same one each time."""
    dataset: Dataset = subject.build()
    deals = [list(Split(0.2)(Head(dataset))) for _ in range(2)]
    parts = [
        {name: {said(each) for split, each in deal if split == name} for name in ("train", "val")} for deal in deals
    ]
    moved = parts[0]["train"] & parts[1]["val"]
    assert not moved, f"{next(iter(moved))[:60]!r} is trained on, and held out when the documents are read again"
    both = parts[0]["train"] & parts[0]["val"]
    assert not both, f"{next(iter(both))[:60]!r} is trained on and held out"
    assert deals[0] == deals[1], "read again, the documents are others or come in another order"


def prepared_alike(subject: Subject) -> None:
    """Prepared twice it gives the same tokens, and rows read from any place on are those of a run from the start."""
    encoder, stores = Encoder(TinyTokenizer(), Speakers()), []
    for number in range(2):
        folder = subject.scratch / str(number) / "run"
        folder.parent.mkdir()
        with surroundings(folder):
            stores.append(prepare(Head(subject.build()), Split(0.0), encoder, "tiny"))
    first, second = (read_manifest(store)["splits"]["train"] for store in stores)
    assert first == second, f"{first['tokens']} tokens the first time, {second['tokens']} the second, or others"
    rows = [StreamRows(TokenStore(store, "train"), LENGTH, seed=0) for store in stores]
    whole = rows[0].batch(0, 12).ids_BT
    assert torch.equal(whole[5:], rows[1].batch(5, 7).ids_BT), "rows 5 to 11 are others when reading begins at row 5"


CHECKS = (
    again_the_same,
    two_at_once,
    documents_are_texts,
    the_fingerprint_stays,
    the_fingerprint_follows_the_content,
    a_missing_path_is_said,
    no_document_in_both_splits,
    prepared_alike,
)


# --- what the checks share ------------------------------------------------------------------------------------------


@frozen
class Head:
    """The first documents of a dataset."""

    dataset: Dataset

    def __iter__(self) -> Iterator[Document]:
        return itertools.islice(iter(self.dataset), MOST)

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


@define
class Speakers:
    """A template that puts the speaker's name before what is said, for datasets of chats."""

    specials: Sequence[str] = ()
    stop: Sequence[str] = ()

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return a line for each message, that of the assistant trained."""
        found: list[Piece] = []
        for number, each in enumerate(messages):
            spoken = each.role == "assistant"
            said = [each.reasoning, each.content, *(json.dumps(call) for call in each.tool_calls)]
            found.append(Piece(f"\n{each.role}: ", markup=True))
            found.append(Piece("".join(said), markup=False, trained=spoken, turn=number))
        return [*found, Piece("\nassistant: ", markup=True)] if generate else found

    def save(self, folder: Path) -> None:
        """Write what `pieces` does to a message's content."""
        lines = "{% for each in messages %}\n{{ each.role }}: {{ each.content }}{% endfor %}"
        (folder / "chat_template.jinja").write_text(lines, encoding="utf-8")


def said(document: Document) -> str:
    """Return what a document says, whatever its origin."""
    return document.text or repr(document.messages)


def is_text(value: Any, where: str, what: str) -> None:
    """Check that a value is a str that UTF-8 can spell."""
    assert isinstance(value, str), f"{where}: {what} is a {type(value).__name__}, not a str"
    half = next((each for each in value if "\ud800" <= each <= "\udfff"), None)
    assert half is None, f"{where}: {what} holds half a surrogate pair, {half!r}"


def is_message(message: Any, where: str) -> None:
    """Check one turn of a chat."""
    assert isinstance(message, Message), f"{where}: a {type(message).__name__} is no llmx.protocols.Message"
    assert message.role in ROLES, f"{where}: the role {message.role!r} is none of {', '.join(ROLES)}"
    is_text(message.content, where, f"the content of {message.role}")
    is_text(message.reasoning, where, f"the reasoning of {message.role}")
    assert message.loss is None or isinstance(message.loss, bool), (
        f"{where}: loss = {message.loss!r}, not true or false"
    )
    for call in message.tool_calls:
        assert {"name", "arguments"} <= set(call), f"{where}: a call without name and arguments: {call!r}"


def head(dataset: Dataset) -> list[Document]:
    """Return the first documents."""
    return list(Head(dataset))


def same(first: list[Document], second: list[Document], when: str) -> None:
    """Check that two lists of documents are equal."""
    assert len(first) == len(second), f"{when}: {len(second)} documents, not {len(first)}"
    pairs = enumerate(zip(first, second, strict=True))
    at = next((n for n, (a, b) in pairs if a != b), None)
    assert at is None, (
        f"{when}: document {at} is {second[at or 0].origin!r}, not {first[at or 0].origin!r}, or has another text"
    )


def own_file(subject: Subject) -> Path:
    """Copy the file that the option `path` names into the scratch folder, and return the copy."""
    given: Any = getattr(subject.part.options, "path", None)
    if not isinstance(given, str | Path) or not Path(given).expanduser().is_file():
        raise NotApplicable("it has no option `path` that names one file")
    source = Path(given).expanduser()
    return Path(shutil.copy(source, subject.scratch / source.name))


def with_options(part: Part, **changes: Any) -> Part:
    """Return a part with other options; a path is given as what it was, a string or a path."""
    if "path" in changes:
        changes["path"] = type(part.options.path)(changes["path"])
    return attrs.evolve(part, options=attrs.evolve(part.options, **changes))
