"""What is common to datasets of files: the documents of each in order, and a fingerprint that says when they change."""

from __future__ import annotations

import errno
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from pyarrow import fs

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import FileOptions
from llmx_datasets.forms import has_content
from llmx_datasets.places import Place, find_files, local, plain_errors
from llmx_datasets.streams import not_utf8


class FileDataset:
    """Documents of the files that `options.path` names, in the order of their paths; a kind of file overrides `read`.

    Documents of nothing but white space are left out.

    Raises:
        DataError: no file is there, one cannot be read, or none holds a document. The message has one line.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, options: FileOptions) -> None:
        self.options = options
        self.places = find_files(options.path, self.suffixes)

    def read(self, place: Place) -> Iterator[Document]:
        """Yield the documents of one file; an `OSError` or `UnicodeDecodeError` may escape."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Document]:
        return at_least_one(self.documents(), self.options.limit, f"data.path = {self.options.path!r}: the files")

    def documents(self) -> Iterator[Document]:
        """Yield all documents, blank ones too."""
        for place in self.places:
            with plain_errors(place.name):
                try:
                    yield from self.read(place)
                except UnicodeDecodeError as error:
                    raise not_utf8(place) from error

    def fingerprint(self) -> str:
        """Return a hash over the options and over the place, size and times of change of each file."""
        return fingerprint([type(self).__name__, repr(self.options)], self.places)


def at_least_one(documents: Iterable[Document], limit: int | None, what: str) -> Iterator[Document]:
    """Yield the first `limit` documents that say anything.

    Raises:
        DataError: there is none.
    """
    found = False
    for document in itertools.islice(filter(has_content, documents), limit):
        found = True
        yield document
    if not found:
        raise DataError(f"{what} hold no text; give others")


def fingerprint(facts: Iterable[str], files: Iterable[Place | Path]) -> str:
    """Return a hash over some strings and over the place, size and times of change of each file."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(fact.encode("utf-8", "surrogatepass") + b"\0")
    for file in files:
        place = local(file) if isinstance(file, Path) else file
        with plain_errors(place.name):
            state = _state(place)
        digest.update("\0".join(map(str, (place.name, *state, ""))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _state(place: Place) -> tuple[object, ...]:
    """Return what changes when a file does; a store tells no more than size and time."""
    if place.local:
        # `tar` and `touch` set the first time, so that two files may share name, size and time; none sets the second.
        # The inode is left out: network file systems may number files anew each time they are mounted.
        stat = Path(place.path).stat()
        return Path(place.path).resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    found = place.system.get_file_info(place.path)
    if found.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, "")
    return found.size, found.mtime_ns
