"""Tables whose rows are records: CSV, Parquet and Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import ARROW_SUFFIXES, CSV_SUFFIXES, PARQUET_SUFFIXES, CsvOptions, RecordOptions, with_compressed
from llmx_datasets.files import FileDataset
from llmx_datasets.forms import Forms, without_nulls
from llmx_datasets.places import Place
from llmx_datasets.streams import BOM, CHUNK, check_text, opened

BATCH_ROWS = 256
"""Rows made into records at a time: rows may be books."""
CSV_BLOCK = 2 << 20
"""Bytes of a CSV file read at a time; a row cannot be longer. Arrow reads up to 32 of them ahead."""
ARROW_MAGIC = b"ARROW1\0\0"


class TableDataset(FileDataset):
    """Each row is a record; a kind of table overrides `batches`."""

    options: RecordOptions

    def batches(self, place: Place, forms: Forms) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file; a `UnicodeDecodeError`, an `OSError` or an `ArrowException` may escape."""
        raise NotImplementedError

    def fault(self, error: Exception, where: str) -> DataError:
        """Return what to say of a table that cannot be read."""
        raise NotImplementedError

    def read(self, place: Place) -> Iterator[Document]:
        """Yield `file.parquet[0]`, `file.parquet[1]`, ... by row."""
        forms, number = Forms(self.options), 0
        try:
            for row in rows(self.batches(place, forms)):
                origin = f"{place.name}[{number}]"
                yield forms(row, origin)
                number += 1
        except UnicodeDecodeError as error:
            where = f"{place.name}[{number}]"
            raise DataError(f"{where}: not valid UTF-8 here or up to {BATCH_ROWS} rows on; mend it") from error
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # the file, not what is in it
            raise self.fault(error, f"{place.name}[{number}]") from error


def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield rows as records."""
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield from map(without_nulls_inside, batch.slice(start, BATCH_ROWS).to_pylist())


def without_nulls_inside(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which null fields are left out of what its columns hold."""
    return {name: without_nulls(value) for name, value in row.items()}


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _wanted(names: list[str], forms: Forms) -> list[str] | None:
    """Return those of a table's columns that may be wanted, or None to read all where none fits."""
    forms.all_columns, columns = names, forms.columns()
    return [name for name in names if name in columns] or None


class ParquetDataset(TableDataset):
    """Parquet files; only the columns that can be wanted are read."""

    suffixes = PARQUET_SUFFIXES

    def batches(self, place: Place, forms: Forms) -> Iterator[pa.RecordBatch]:
        """Yield some rows at a time, whatever the size of the file's row groups."""
        with (
            place.system.open_input_file(place.path) as source,
            parquet.ParquetFile(source, pre_buffer=False, buffer_size=CHUNK) as file,
        ):
            names = _wanted(file.schema_arrow.names, forms)
            yield from file.iter_batches(BATCH_ROWS, columns=names, use_threads=False)

    def fault(self, error: Exception, where: str) -> DataError:
        """Return what to say of a file that is damaged."""
        return DataError(f"{where}: no whole Parquet file: {_reason(error)}; fetch it again")


class ArrowDataset(TableDataset):
    """Arrow IPC files and streams."""

    suffixes = with_compressed(ARROW_SUFFIXES)

    def batches(self, place: Place, forms: Forms) -> Iterator[pa.RecordBatch]:
        """Yield the batches of a file or a stream, each checked: offsets that point elsewhere would crash."""
        for batch in self._stored(place):
            names = _wanted(batch.schema.names, forms)
            batch = batch if names is None else batch.select(names)
            batch.validate(full=True)
            yield batch

    def _stored(self, place: Place) -> Iterator[pa.RecordBatch]:
        with opened(place) as stream:
            head = stream.read(len(ARROW_MAGIC))
        if head == ARROW_MAGIC and place.suffix not in (".gz", ".zst"):  # its end says whether it is whole
            mapped = pa.memory_map(place.path) if place.local else place.system.open_input_file(place.path)
            with mapped as source, pa.ipc.open_file(source) as file:
                for number in range(file.num_record_batches):
                    yield file.get_batch(number)
            return
        with opened(place) as stream:
            if head == ARROW_MAGIC:
                stream.read(len(ARROW_MAGIC))  # a stream follows, and then a table of contents
            with pa.ipc.open_stream(stream) as found:
                yield from found

    def fault(self, error: Exception, where: str) -> DataError:
        """Return what to say of a file that is damaged."""
        return DataError(f"{where}: no whole Arrow file: {_reason(error)}; write or fetch it again")


class CsvDataset(TableDataset):
    """CSV and TSV files; the first row names the columns, and every cell is text."""

    suffixes = with_compressed(CSV_SUFFIXES)
    options: CsvOptions

    def batches(self, place: Place, forms: Forms) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a block at a time."""
        plain = place.name.lower().removesuffix(".gz").removesuffix(".zst")
        delimiter = self.options.delimiter or ("\t" if plain.endswith(".tsv") else ",")
        reading = csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False)
        parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        with opened(place) as stream:
            head = stream.read(CHUNK)
            check_text(head, place.name)
            if not head.strip():
                return
        with opened(place) as stream, csv.open_csv(stream, reading, parsing) as reader:
            names = reader.schema.names
        converting = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
            include_columns=_wanted(names, forms),
        )
        with opened(place) as stream:
            quotes = Quotes(stream, delimiter)
            with csv.open_csv(quotes, reading, parsing, converting) as reader:
                yield from reader
        if quotes.open_line is not None:  # Arrow takes all that follows it for one cell
            raise DataError(f"{place.name}:{quotes.open_line}: a quote is opened here and never closed; mend the file")

    def fault(self, error: Exception, where: str) -> DataError:
        """Return what to say of a file that is no CSV."""
        reason = _reason(error)
        if "UTF8" in reason or "UTF-8" in reason:
            return DataError(f"{where}: not valid UTF-8 here or later; convert the file, as with iconv -t UTF-8")
        if "straddling" in reason:
            reason = f"a row of more than {CSV_BLOCK:,} bytes, or a quote that is not closed"
        return DataError(f"{where}: no whole CSV file: {reason}; mend the file, or set data.delimiter")


class Quotes:
    """The bytes of a CSV file, of which is noted whether they end within quotes.

    Quotes count as they do for Arrow: at the beginning of a cell alone, and in quotes two of them are one character.
    """

    closed = False

    def __init__(self, stream: pa.NativeFile, delimiter: str) -> None:
        self._stream = stream
        self._opening = re.compile(rb'[\r\n%s]"' % re.escape(delimiter.encode()))
        self._held, self._lines, self._from = b"\n", 0, 0  # the line end stands before the first cell
        self._inside = False

    @property
    def open_line(self) -> int | None:
        """Number of the line on which quotes begin that nothing closed, None where all are closed."""
        return self._from if self._inside and self._held != b'"' else None

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        piece: bytes = self._stream.read(size)
        text = self._held + (piece if self._lines else piece.removeprefix(BOM))
        at, opened = 0, -1
        self._held = b""
        while True:
            if not self._inside:
                found = self._opening.search(text, at)
                if found is None:
                    self._held = text[-1:]  # a cell may begin behind it
                    break
                self._inside, at, opened = True, found.end(), found.end()
            close = text.find(b'"', at)
            if close in (-1, len(text) - 1):
                self._held = text[close:] if close >= 0 else b""  # another may follow it
                break
            if text.startswith(b'"', close + 1):
                at = close + 2
            else:
                self._inside, at = False, close + 1
        if self._inside and opened >= 0:
            self._from = self._lines + text.count(b"\n", 0, opened)
        self._lines += text.count(b"\n", 0, len(text) - len(self._held))
        return piece
