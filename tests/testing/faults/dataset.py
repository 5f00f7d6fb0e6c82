"""Datasets with the mistakes that authors make, and correct ones that are unlike ours."""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from llmx import Component, NoOptions
from llmx.errors import DataError
from llmx.protocols import Document, Message
from llmx.testing.samples import sample_path


@frozen
class LinesOptions:
    path: str
    """A text file; each line with text is a document."""
    limit: int | None = None
    """Most documents taken; none takes all."""


class Lines:
    """Correct: each line of a file that holds text is a document."""

    def __init__(self, options: LinesOptions) -> None:
        self.options = options
        self.path = Path(options.path)
        self.check()

    def check(self) -> None:
        if not self.path.is_file():
            raise DataError(f"data.path = {self.options.path!r}: no such file")

    def __iter__(self) -> Iterator[Document]:
        return itertools.islice(self.documents(), self.options.limit)

    def documents(self) -> Iterator[Document]:
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Document(line.rstrip("\n"), f"{self.path}:{number}")

    def fingerprint(self) -> str:
        state = self.path.stat()
        facts = (str(self.path), state.st_size, state.st_mtime_ns, self.options.limit)
        return hashlib.sha256(repr(facts).encode()).hexdigest()


# --- faults ---------------------------------------------------------------------------------------------------------


class Once(Lines):
    """It is its own iterator: the second reading finds nothing."""

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self.stream = self.documents()

    def __iter__(self) -> Iterator[Document]:
        return self.stream


class ShufflesItself(Lines):
    """The order is drawn from the global generator, anew for each reading."""

    def __iter__(self) -> Iterator[Document]:
        found = list(super().__iter__())
        random.shuffle(found)
        return iter(found)


class OnePlace(Lines):
    """The place in the file is kept in the object: each iterator goes on where another stands."""

    def __iter__(self) -> Iterator[Document]:
        found, self.place = list(self.documents()), 0
        while self.place < len(found):
            self.place += 1
            yield found[self.place - 1]


class SharedCounter(Lines):
    """The number of a document is counted in the object, not in the iterator."""

    def __iter__(self) -> Iterator[Document]:
        self.number = 0
        for document in super().__iter__():
            self.number += 1
            yield Document(document.text, f"{self.path}#{self.number}")


class Bare(Lines):
    """Texts come without a Document around them."""

    def __iter__(self) -> Iterator[Any]:
        return (document.text for document in super().__iter__())


class EmptyLines(Lines):
    """Blank lines are documents too."""

    def documents(self) -> Iterator[Document]:
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines()):
            yield Document(line, f"{self.path}:{number}")


class NoPlace(Lines):
    """The origin is the file alone: which of its documents is broken cannot be said."""

    def __iter__(self) -> Iterator[Document]:
        return (Document(document.text, str(self.path)) for document in super().__iter__())


class Surrogates(Lines):
    """Bytes that are not ASCII become lone surrogates, which cannot be written again."""

    def documents(self) -> Iterator[Document]:
        text = self.path.read_text(encoding="ascii", errors="surrogateescape")
        return (Document(line, f"{self.path}:{n}") for n, line in enumerate(text.splitlines()) if line.strip())


class Chats(Lines):
    """Correct: each line is what a user says, and the answer is its length."""

    def __iter__(self) -> Iterator[Document]:
        for each in super().__iter__():
            yield Document("", each.origin, (Message("user", each.text), Message("assistant", str(len(each.text)))))


class BothForms(Chats):
    """The chat is given as a text too."""

    def __iter__(self) -> Iterator[Document]:
        return (evolve(each, text=each.messages[0].content) for each in super().__iter__())


class ForeignRoles(Chats):
    """Roles are those of the file, `human` and `gpt`."""

    def __iter__(self) -> Iterator[Document]:
        for each in super().__iter__():
            yield evolve(each, messages=(Message("human", each.messages[0].content), *each.messages[1:]))


class BareTurns(Chats):
    """Turns are dicts as they stand in the file."""

    def __iter__(self) -> Iterator[Document]:
        for each in super().__iter__():
            yield evolve(each, messages=tuple({"role": m.role, "content": m.content} for m in each.messages))


class NoContent(Chats):
    """A turn without content holds null."""

    def __iter__(self) -> Iterator[Document]:
        for each in super().__iter__():
            yield evolve(each, messages=(*each.messages, Message("assistant", None)))


class HashOfStrings(Lines):
    """The fingerprint is made with hash(), which differs from process to process."""

    def fingerprint(self) -> str:
        return f"{hash((str(self.path), self.path.stat().st_mtime_ns, self.options.limit)):x}"


class TimeOfReading(Lines):
    """The fingerprint has the time at which the dataset was built."""

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self.built = time.perf_counter_ns()

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{self.built}"


class CountsReads(Lines):
    """The fingerprint is over the documents read so far."""

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self.digest = hashlib.sha256()

    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            self.digest.update(document.text.encode())
            yield document

    def fingerprint(self) -> str:
        return super().fingerprint() + self.digest.hexdigest()


class NameOnly(Lines):
    """The fingerprint is the name of the file."""

    def fingerprint(self) -> str:
        return f"{self.path}-{self.options.limit}"


class SizeOnly(Lines):
    """The fingerprint is the length of the file: an edit that keeps it is not seen."""

    def fingerprint(self) -> str:
        return f"{self.path}-{self.path.stat().st_size}-{self.options.limit}"


class FirstBytes(Lines):
    """The fingerprint is over the first bytes of the file, and what comes after them is not seen."""

    def fingerprint(self) -> str:
        head = self.path.read_bytes()[:4096]
        return hashlib.sha256(head + repr(self.options.limit).encode()).hexdigest()


class ForgetsTheLimit(Lines):
    """The fingerprint leaves the limit out: a short try is taken for the whole corpus."""

    def fingerprint(self) -> str:
        state = self.path.stat()
        return f"{self.path}-{state.st_size}-{state.st_mtime_ns}"


class SystemFault(Lines):
    """A missing file is the error of the system."""

    def check(self) -> None:
        self.path.stat()


class Nameless(Lines):
    """The error does not say which file is missing."""

    def check(self) -> None:
        if not self.path.is_file():
            raise DataError("data.path: file not found")


class NothingThere(Lines):
    """A missing file is an empty corpus."""

    def check(self) -> None:
        pass

    def documents(self) -> Iterator[Document]:
        return super().documents() if self.path.is_file() else iter(())


class Augments(Lines):
    """A letter of each text is exchanged at random, as if data were augmented."""

    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            text, at = document.text, random.randrange(len(document.text))
            yield Document(text[:at] + random.choice("abcdefgh") + text[at + 1 :], document.origin)


class Workers(Lines):
    """Documents come in the order in which workers happen to finish."""

    def __iter__(self) -> Iterator[Document]:
        found = list(super().__iter__())
        at = random.randrange(len(found))
        return iter(found[at:] + found[:at])


class NextPart(Lines):
    """Each reading takes the next part of the corpus."""

    readings = 0

    def __iter__(self) -> Iterator[Document]:
        NextPart.readings += 1
        return itertools.islice(super().__iter__(), NextPart.readings, None)


# --- correct, but unlike ours ---------------------------------------------------------------------------------------


class Endless:
    """Correct: documents without end, made by a rule."""

    def __init__(self, _options: NoOptions) -> None:
        pass

    def __iter__(self) -> Iterator[Document]:
        for number in itertools.count():
            text = " ".join(str(number * step) for step in range(1, 30))
            yield Document(f"Multiples of {number}: {text}", f"multiples:{number}")

    def fingerprint(self) -> str:
        return "multiples-1"


class HeldInMemory(Lines):
    """Correct: the file is read once, its fingerprint is over its bytes, and equal lines come once."""

    def __iter__(self) -> Iterator[Document]:
        self.found = getattr(self, "found", None) or list({each.text: each for each in super().__iter__()}.values())
        return iter(self.found)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes() + repr(self.options.limit).encode()).hexdigest()


class LateError(Lines):
    """Correct: a missing file is said when the documents are asked for."""

    def check(self) -> None:
        pass

    def documents(self) -> Iterator[Document]:
        super().check()
        yield from super().documents()


def planted(target: type, options: type = LinesOptions) -> Component:
    """Return the component of a class of this file."""
    name = "".join(f"-{each.lower()}" if each.isupper() else each for each in target.__name__).strip("-")
    summary = (target.__doc__ or "").partition("\n")[0]
    target_name = f"llmx_faults_dataset:{target.__name__}"
    return Component(name=name, target=target_name, options=options, summary=summary, handles=(".txt",))


PATH = {"path": str(sample_path("dataset", planted(Lines)))}
BROKEN = {
    "again-the-same": (Once, ShufflesItself),
    "two-at-once": (OnePlace, SharedCounter),
    "documents-are-texts": (Bare, EmptyLines, NoPlace, Surrogates, BothForms, ForeignRoles, BareTurns, NoContent),
    "the-fingerprint-stays": (HashOfStrings, TimeOfReading, CountsReads),
    "the-fingerprint-follows-the-content": (NameOnly, SizeOnly, FirstBytes, ForgetsTheLimit),
    "a-missing-path-is-said": (SystemFault, Nameless, NothingThere),
    "no-document-in-both-splits": (Augments, Workers),
    "prepared-alike": (NextPart,),
}
FAULTS = [(check, planted(target), PATH) for check, targets in BROKEN.items() for target in targets]
"""A check's name, a component that breaks its promise, and the options that it needs."""

CRASHES = {"system-fault": "FileNotFoundError"}
"""Faults that show as an exception of their own, and which."""

CORRECT = [
    ("*", planted(Lines), PATH),
    ("*", planted(HeldInMemory), PATH),
    ("*", planted(LateError), PATH),
    ("*", planted(Chats), PATH),
    ("*", planted(Endless, NoOptions), {}),
]
"""Components that no check may accuse."""
