"""Files that a dataset reads: which they are, what is common to reading them, and when they have changed."""

from __future__ import annotations

import glob
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import FileOptions


class FileDataset:
    """Documents of the files that `options.path` names, in the order of their paths; a kind of file overrides `read`.

    Documents of nothing but white space are left out.

    Raises:
        DataError: no file is there, one cannot be read, or none holds a document. The message has one line.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, options: FileOptions) -> None:
        self.options = options
        self.paths = find_files(options.path, self.suffixes)

    def read(self, path: Path) -> Iterator[Document]:
        """Yield the documents of one file; an `OSError` or `UnicodeDecodeError` may escape."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Document]:
        found = False
        for document in itertools.islice(self._documents(), self.options.limit):
            found = True
            yield document
        if not found:
            raise DataError(f"data.path = {self.options.path!r}: the files hold no text; give others")

    def _documents(self) -> Iterator[Document]:
        for path in self.paths:
            with plain_errors(path):
                for document in self.read(path):
                    if document.text and not document.text.isspace():
                        yield document

    def fingerprint(self) -> str:
        """Return a hash over the options and over the path, size and time of change of each file."""
        return fingerprint([type(self).__name__, repr(self.options)], self.paths)


def find_files(pattern: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a path or a pattern names, sorted.

    Raises:
        DataError: there is none.
    """
    path = Path(pattern).expanduser()
    where = f"data.path = {pattern!r}"
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [each for each in path.rglob("*") if each.suffix.lower() in suffixes and not _hidden(each, path)]
        missing = f"{where}: the folder holds no file that ends in {' or '.join(suffixes)}; give a file or a pattern"
    elif glob.has_magic(pattern):
        found = [Path(each) for each in glob.glob(str(path), recursive=True)]  # noqa: PTH207  # Path.glob: no "/a/*"
        missing = f"{where}: no file matches the pattern; it is relative to {Path.cwd()}"
    else:
        found, missing = [], f"{where}: no such file or folder; it is relative to {Path.cwd()}"
    files = sorted(each for each in found if each.is_file())
    if not files:
        raise DataError(missing)
    return files


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a `DataError` of one line."""
    try:
        yield
    except UnicodeDecodeError as error:
        line = first_line_not_utf8(path)
        raise DataError(f"{path}:{line}: not valid UTF-8; convert the file, as with iconv -t UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check the file") from error


def first_line_not_utf8(path: Path) -> int:
    """Return the number of the first line that is not UTF-8, counted from 1; 0 where all are."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def fingerprint(facts: Iterable[str], paths: Iterable[Path]) -> str:
    """Return a hash over some strings and over the path, size and time of change of each file."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(fact.encode("utf-8", "surrogatepass") + b"\0")
    for path in paths:
        with plain_errors(path):
            stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
