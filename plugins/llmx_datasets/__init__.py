"""Datasets: text, jsonl, json and parquet files, and python-docs, which every Python brings along."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen, validators

from llmx import Component, hookimpl

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (".json",)
PARQUET_SUFFIXES = (".parquet",)


@frozen
class LimitOptions:
    limit: int | None = field(
        default=None, validator=validators.optional(validators.ge(1)), metadata={"unit": "documents"}
    )
    """Most documents taken, from the first on; none takes all. For a quick try on a part of a large corpus."""


@frozen(kw_only=True)
class FileOptions(LimitOptions):
    path: str = field(validator=validators.min_len(1))
    """A file, a folder or a pattern such as "data/**/*.jsonl"; `~` is the home folder. A folder gives the files below
    it with the endings of the dataset, sorted by path, hidden ones left out. It is relative to the working folder."""


@frozen(kw_only=True)
class TextOptions(FileOptions):
    separator: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """What stands between two documents of one file, such as "<|endoftext|>" or a blank line, "\\n\\n"; it belongs to
    neither. Without one each file is one document, since nothing else in plain text says where one ends; a file is
    then held in memory whole."""


@frozen(kw_only=True)
class RecordOptions(FileOptions):
    text_field: str | None = None
    """Field of each record that holds the text. Without one the usual forms are recognised: text, content,
    instruction with input and output, query with response, messages or conversations; parts are joined by a blank
    line."""


@hookimpl
def llmx_datasets() -> Iterable[Component]:
    return [
        Component(
            name="text",
            target="llmx_datasets.text:TextDataset",
            options=TextOptions,
            summary="plain text, UTF-8; a file or a part between separators is a document",
            handles=TEXT_SUFFIXES,
        ),
        Component(
            name="jsonl",
            target="llmx_datasets.records:JsonlDataset",
            options=RecordOptions,
            summary="one JSON record on each line, read line by line",
            handles=JSONL_SUFFIXES,
        ),
        Component(
            name="json",
            target="llmx_datasets.records:JsonDataset",
            options=RecordOptions,
            summary="a JSON array of records, or one record; a file is read whole, use jsonl for large ones",
            handles=JSON_SUFFIXES,
        ),
        Component(
            name="parquet",
            target="llmx_datasets.parquet:ParquetDataset",
            options=RecordOptions,
            summary="Parquet tables, read in batches of rows and of the text's columns alone",
            handles=PARQUET_SUFFIXES,
        ),
        Component(
            name="python-docs",
            target="llmx_datasets.python_docs:PythonDocs",
            options=LimitOptions,
            summary="English from Python's own manual and docstrings: no download",
        ),
    ]
