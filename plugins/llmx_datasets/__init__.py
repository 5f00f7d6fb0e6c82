"""Datasets: files of text, JSON, CSV, Parquet and Arrow, datasets of two hubs, and what every Python brings along."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from attrs import Attribute, field, frozen, validators

from llmx import Component, hookimpl

COMPRESSED = (".gz", ".zst")
TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (".json",)
CSV_SUFFIXES = (".csv", ".tsv")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
PARQUET_SUFFIXES = (".parquet",)

Form = Literal["auto", "text", "messages", "sharegpt", "alpaca", "query", "chatml", "preference"]

at_least_one: Any = validators.ge(1)
not_empty: Any = validators.min_len(1)


def with_compressed(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return endings, each also with those of compressed files."""
    return (*suffixes, *(suffix + packed for suffix in suffixes for packed in COMPRESSED))


def _paths(_: Any, __: Attribute[Any], value: str | tuple[str, ...]) -> None:
    if not value or "" in ([value] if isinstance(value, str) else value):
        raise ValueError(f"must name a file, a folder or a pattern, not {value!r}")


def _not_plain(given: Any, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and given.text_field is not None:
        raise ValueError(
            f"'{attribute.name}' cannot be set beside text_field, which reads plain text; leave one of them out"
        )


@frozen
class LimitOptions:
    limit: int | None = field(default=None, validator=validators.optional(at_least_one), metadata={"unit": "documents"})
    """Most documents taken, from the first on; none takes all. For a quick try on a part of a large corpus."""


@frozen(kw_only=True)
class FileOptions(LimitOptions):
    path: str | tuple[str, ...] = field(validator=_paths)
    """A file, a folder or a pattern such as "data/**/*.jsonl", or a list of these in the order to read them; `~` is the
    home folder. A folder gives the files below it with the endings of the dataset, sorted by path, hidden ones left
    out. It is relative to the working folder, or a URL that pyarrow reads: "s3://bucket/data/*.jsonl.gz"."""


@frozen(kw_only=True)
class TextOptions(FileOptions):
    separator: str | None = field(default=None, validator=validators.optional(not_empty))
    """What stands between two documents of one file, such as "<|endoftext|>" or a blank line, "\\n\\n"; it belongs to
    neither. Without one each file is one document, since nothing else in plain text says where one ends."""
    part_bytes: int = field(default=4_000_000, validator=validators.ge(16))
    """Longest document; a longer one, or a longer file without separators, becomes several, cut between paragraphs, or
    lines or words where those are longer. The default holds any book in one and keeps memory small."""
    format: Literal["auto", "text", "chatml"] = "auto"
    """What a file holds: plain text, or chats written as `<|im_start|>role`, content, `<|im_end|>`. "auto" reads a file
    that begins with `<|im_start|>` as chats; a blank line or a system turn begins the next one."""


@frozen(kw_only=True, slots=False)  # it stands beside another base, and two with slots do not go together
class RecordForm:
    format: Form = "auto"
    """Form of the records. "auto" looks at the fields of each: `chosen` with `rejected` (preference), `messages`,
    `conversations` (sharegpt), `instruction` with `output` (alpaca), `query` with `response`, `text` or `content`, in
    this order; a text that begins with `<|im_start|>` is chatml."""
    text_field: str | None = None
    """Field of each record that holds plain text. It makes every record plain text, unless the format is chatml."""
    messages_field: str | None = field(default=None, validator=_not_plain)
    """Field of each record that holds the list of turns, where it is not `messages` or `conversations`."""
    prompt_field: str | None = field(default=None, validator=_not_plain)
    """Field of each record that holds the question, where it is not `query`, `instruction` or `prompt`."""
    response_field: str | None = field(default=None, validator=_not_plain)
    """Field of each record that holds the answer, where it is not `response` or `output`."""


@frozen(kw_only=True)
class RecordOptions(RecordForm, FileOptions):
    """Records in files."""


@frozen(kw_only=True)
class JsonOptions(RecordOptions):
    max_line_bytes: int = field(default=64_000_000, validator=at_least_one)
    """Longest line, or record of an array; a longer one is an error that names it. A record is held in memory whole,
    and one of this size is far more often a broken file than a text."""


@frozen(kw_only=True)
class CsvOptions(RecordOptions):
    delimiter: str | None = field(default=None, validator=validators.optional(validators.matches_re(r"[\x01-\x7f]")))
    """What stands between two columns, one ASCII character. Unset: a tab in a file that ends in .tsv, else a comma."""


@frozen(kw_only=True)
class HubOptions(RecordForm, LimitOptions):
    path: str = field(validator=not_empty)
    """Name of the dataset as on its hub, "owner/name"."""
    revision: str | None = None
    """Branch, tag or commit to read. A commit never changes; unset, it is the newest of the main branch."""


@frozen(kw_only=True)
class HuggingFaceOptions(HubOptions):
    path: str = field(validator=not_empty)
    """Name of the dataset as on the Hugging Face Hub, "owner/name", or a local folder of data files."""
    config: str | None = None
    """Which configuration, where the dataset has several: a language, a subset."""
    split: str = field(default="train", validator=not_empty)
    """Which split to read; llmx holds out documents of its own from it (`data.held_out`)."""
    streaming: bool = True
    """Read over the network as the documents are asked for. False downloads all first, into the client's own cache:
    for a dataset that is read often, or in a form that cannot be streamed."""


@frozen(kw_only=True)
class ModelScopeOptions(HubOptions):
    files: str | None = field(default=None, validator=validators.optional(not_empty))
    """Which files of the dataset to fetch and read, a pattern such as "data/*.jsonl"; unset, all with an ending that
    llmx reads."""


def _of_files() -> list[Component]:
    return [
        Component(
            name="text",
            target="llmx_datasets.text:TextDataset",
            options=TextOptions,
            summary="plain text, UTF-8: a file or a part between separators is a document; ChatML",
            handles=with_compressed(TEXT_SUFFIXES),
        ),
        Component(
            name="jsonl",
            target="llmx_datasets.json_lines:JsonlDataset",
            options=JsonOptions,
            summary="one JSON record on each line, read line by line",
            handles=with_compressed(JSONL_SUFFIXES),
        ),
        Component(
            name="json",
            target="llmx_datasets.json_array:JsonDataset",
            options=JsonOptions,
            summary="a JSON array of records, read record by record, or one record",
            handles=with_compressed(JSON_SUFFIXES),
        ),
        Component(
            name="csv",
            target="llmx_datasets.tables:CsvDataset",
            options=CsvOptions,
            summary="CSV or TSV with a first row of names, read in blocks",
            handles=with_compressed(CSV_SUFFIXES),
        ),
        Component(
            name="parquet",
            target="llmx_datasets.tables:ParquetDataset",
            options=RecordOptions,
            summary="Parquet tables, read in batches of rows and of the columns that are wanted alone",
            handles=PARQUET_SUFFIXES,
        ),
        Component(
            name="arrow",
            target="llmx_datasets.tables:ArrowDataset",
            options=RecordOptions,
            summary="Arrow IPC files and streams, read batch by batch",
            handles=with_compressed(ARROW_SUFFIXES),
        ),
    ]


@hookimpl
def llmx_datasets() -> Iterable[Component]:
    return [
        *_of_files(),
        Component(
            name="huggingface",
            target="llmx_datasets.huggingface:HuggingFaceDataset",
            options=HuggingFaceOptions,
            summary="a dataset of the Hugging Face Hub, streamed by its client: pip install 'llmx[hub]'",
        ),
        Component(
            name="modelscope",
            target="llmx_datasets.modelscope:ModelScopeDataset",
            options=ModelScopeOptions,
            summary="a dataset of ModelScope, fetched by its client: pip install 'llmx[modelscope]'",
        ),
        Component(
            name="python-docs",
            target="llmx_datasets.python_docs:PythonDocs",
            options=LimitOptions,
            summary="English from Python's own manual and docstrings: no download",
        ),
    ]
