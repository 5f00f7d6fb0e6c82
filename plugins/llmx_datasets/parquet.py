"""Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import PARQUET_SUFFIXES, RecordOptions
from llmx_datasets.files import FileDataset
from llmx_datasets.records import KNOWN, record_text

BATCH_ROWS = 256
"""Rows decoded at a time: rows may be books."""


class ParquetDataset(FileDataset):
    """Each row is a record; only the columns that can hold its text are read."""

    suffixes = PARQUET_SUFFIXES
    options: RecordOptions

    def read(self, path: Path) -> Iterator[Document]:
        """Yield `file.parquet[0]`, `file.parquet[1]`, ... by row."""
        number = 0
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=self._columns(file.schema_arrow.names)):
                    for row in batch.to_pylist():
                        origin = f"{path}[{number}]"
                        yield Document(record_text(row, self.options.text_field, origin), origin)
                        number += 1
        except UnicodeDecodeError as error:
            raise DataError(f"{path}[{number}]: not valid UTF-8 here or up to {BATCH_ROWS} rows on; mend it") from error
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise DataError(f"{path}[{number}]: no whole Parquet file: {reason}; fetch it again") from error

    def _columns(self, names: list[str]) -> list[str] | None:
        field = self.options.text_field
        wanted = [name for name in names if (name in KNOWN if field is None else name == field)]
        return wanted or None  # none fits: read all, so that the error names what there is
