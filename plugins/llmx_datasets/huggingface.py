"""Datasets of the Hugging Face Hub, through its own client."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import HuggingFaceOptions
from llmx_datasets.files import at_least_one, fingerprint
from llmx_datasets.forms import Forms
from llmx_datasets.tables import without_nulls_inside


class HuggingFaceDataset:
    """One split of a dataset, its rows as records; nothing of the dataset's own code is run.

    Raises:
        DataError: there is no such dataset, configuration or split, or it cannot be reached or read.
    """

    def __init__(self, options: HuggingFaceOptions) -> None:
        self.options = options
        self.name = f"{options.path}/{options.config}" if options.config else options.path

    @functools.cached_property
    def builder(self) -> Any:
        """What reads the dataset; the hub is asked once."""
        with plain_errors(self.name):
            return datasets.load_dataset_builder(self.options.path, self.options.config, revision=self.options.revision)

    def __iter__(self) -> Iterator[Document]:
        return at_least_one(self._documents(), self.options.limit, f"data.path = {self.options.path!r}: the rows")

    def _documents(self) -> Iterator[Document]:
        forms, split = Forms(self.options), self.options.split
        builder = self.builder
        with plain_errors(self.name):
            if self.options.streaming:
                rows = builder.as_streaming_dataset(split=split)
            else:
                builder.download_and_prepare()
                rows = builder.as_dataset(split=split)
            for number, row in enumerate(rows):
                origin = f"{self.name}:{split}[{number}]"
                yield forms(without_nulls_inside(row), origin)

    def fingerprint(self) -> str:
        """Return a hash over the options and the commit of the files, or the state of local ones."""
        found = self.builder.config.data_files or {}
        files = [name for names in found.values() for name in names]
        commits = [repr(names.origin_metadata) for names in found.values()]
        facts = [type(self).__name__, repr(self.options), str(self.builder.hash), *commits, *files]
        return fingerprint(facts, [Path(name) for name in files if "://" not in name])


@contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn what the client says into a `DataError` of one line."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise DataError(
            f"data.path = {name!r}: {reason}; check path, config, split and revision, and the network"
        ) from error
