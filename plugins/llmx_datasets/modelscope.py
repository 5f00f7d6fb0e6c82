"""Datasets of ModelScope, fetched by its own client and then read as the files they are."""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from modelscope.hub.snapshot_download import dataset_snapshot_download

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import CsvOptions, JsonOptions, ModelScopeOptions, RecordForm, RecordOptions, TextOptions
from llmx_datasets.files import FileDataset, at_least_one, fingerprint
from llmx_datasets.json_array import JsonDataset
from llmx_datasets.json_lines import JsonlDataset
from llmx_datasets.places import Place
from llmx_datasets.tables import ArrowDataset, CsvDataset, ParquetDataset
from llmx_datasets.text import TextDataset

READERS: tuple[tuple[type[FileDataset], type[Any]], ...] = (
    (ParquetDataset, RecordOptions),
    (ArrowDataset, RecordOptions),
    (JsonlDataset, JsonOptions),
    (JsonDataset, JsonOptions),
    (CsvDataset, CsvOptions),
    (TextDataset, TextOptions),
)
NO_DATA = ("readme.md", "dataset_infos.json", "dataset_info.json", "requirements.txt", "licence.txt", "license.txt")
"""Files beside the data, in lower case, that describe it; a pattern of the user's may still name them."""


class ModelScopeDataset:
    """The files of a dataset, each read by its ending, in the order of their paths.

    Raises:
        DataError: there is no such dataset, it cannot be reached, or it holds no file that can be read.
    """

    def __init__(self, options: ModelScopeOptions) -> None:
        self.options = options

    @functools.cached_property
    def folder(self) -> Path:
        """Where the files are; they are fetched the first time, and checked against the hub once by each object."""
        where = f"data.path = {self.options.path!r}"
        try:
            found = dataset_snapshot_download(
                self.options.path, revision=self.options.revision, allow_file_pattern=self.options.files
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:300]
            raise DataError(f"{where}: {reason}; check path and revision, and the network") from error
        return Path(found)

    @functools.cached_property
    def readers(self) -> list[FileDataset]:
        """What reads each of the files, in their order."""
        below = sorted(path for path in self.folder.rglob("*") if path.is_file())
        found = [reader for reader in map(self._reader, below) if reader is not None]
        if not found:
            raise DataError(f"data.path = {self.options.path!r}: none of its {len(below)} files can be read as text "
                            "or records; set data.files to those that hold them")  # fmt: skip
        return found

    def _reader(self, path: Path) -> FileDataset | None:
        name = path.relative_to(self.folder).as_posix()
        if any(step.startswith(".") for step in name.split("/")):
            return None
        chosen = self.options.files
        if path.name.lower() in NO_DATA if chosen is None else not fnmatch.fnmatch(name, chosen):
            return None
        for dataset, options in READERS:
            if path.name.lower().endswith(dataset.suffixes):
                form = {each.name: getattr(self.options, each.name) for each in attrs.fields(RecordForm)}
                reader = dataset(options(path=str(path), **({} if options is TextOptions else form)))
                reader.places = [Place(f"{self.options.path}/{name}", str(path))]
                return reader
        return None

    def __iter__(self) -> Iterator[Document]:
        documents = itertools.chain.from_iterable(reader.documents() for reader in self.readers)
        return at_least_one(documents, self.options.limit, f"data.path = {self.options.path!r}: the files")

    def fingerprint(self) -> str:
        """Return a hash over the options and the place, size and times of change of each file."""
        return fingerprint(
            [type(self).__name__, repr(self.options)], [place for reader in self.readers for place in reader.places]
        )
