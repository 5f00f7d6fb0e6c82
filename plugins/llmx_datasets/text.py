"""Plain text files, and chats written as ChatML in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmx.protocols import Document
from llmx_datasets import TEXT_SUFFIXES, TextOptions, with_compressed
from llmx_datasets.chatml import MARK, chats
from llmx_datasets.files import FileDataset
from llmx_datasets.places import Place
from llmx_datasets.streams import chunks, lines


class TextDataset(FileDataset):
    """Each file, or each part of one between separators, is a document; line ends are read as `\\n`."""

    suffixes = with_compressed(TEXT_SUFFIXES)
    options: TextOptions

    def read(self, place: Place) -> Iterator[Document]:
        """Yield `file.txt` whole, or `file.txt#1`, `file.txt#2`, ... where it has parts; a chat by its line."""
        options, pieces = self.options, line_feeds(chunks(place))
        if options.format != "text":
            first = next(pieces, b"")
            pieces = _again(first, pieces)
            if options.format == "chatml" or first.lstrip().startswith(MARK.encode()):
                numbered = lines(pieces, options.part_bytes, place.name, "part_bytes")
                yield from chats(((n, line.decode() + "\n") for n, line in numbered), place.name, options.part_bytes)
                return
        separator = None if options.separator is None else options.separator.encode()
        held: bytes | None = None
        number = 0
        for number, part in enumerate(parts(pieces, separator, options.part_bytes), 1):
            if held is not None:
                yield Document(held.decode(), f"{place.name}#{number - 1}")
            held = part
        if held is not None:
            yield Document(held.decode(), place.name if number == 1 and separator is None else f"{place.name}#{number}")


def _again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def line_feeds(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield bytes in which every line end is a line feed."""
    held = b""
    for piece in pieces:
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""  # a line feed may follow
        piece = piece[: len(piece) - len(held)]
        yield piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in piece else piece
    if held:
        yield b"\n"


def parts(pieces: Iterable[bytes], separator: bytes | None, most: int) -> Iterator[bytes]:
    """Yield what stands between separators, at least one part, which may be empty; longer ones than `most` are cut.

    No more than `most` bytes and one piece are held.
    """
    held, at, looked = b"", 0, 0  # what is before `at` is given, and no separator begins before `looked`
    for piece in pieces:
        held, looked, at = held[at:] + piece, looked - at, 0
        while True:
            end = -1 if separator is None else held.find(separator, looked)
            if separator is not None and 0 <= end <= at + most:
                yield held[at:end]
                at = looked = end + len(separator)
            elif len(held) - at > most + len(separator or b""):
                cut = cut_point(held[at : at + most])
                yield held[at : at + cut]
                at += cut
                looked = max(looked, at)
            else:
                break
        if separator is not None:
            looked = max(at, len(held) - len(separator) + 1)
    yield held[at:]


def cut_point(text: bytes) -> int:
    """Return where to cut a text that is too long: after its last paragraph, line or word, never within a letter."""
    for end, least in ((b"\n\n", 3 / 4), (b"\n", 1 / 2), (b" ", 1 / 2)):
        found = text.rfind(end, int(len(text) * least))
        if found >= 0:
            return found + len(end)
    for back in (1, 2, 3):
        if text[-back] >= 0xC0:  # the first byte of a letter: it stays where all of it is there
            return len(text) - back if _width(text[-back]) > back else len(text)
    return len(text)


def _width(first: int) -> int:
    """Return how many bytes a letter has by its first one."""
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4
