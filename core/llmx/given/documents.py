"""Texts, chats and records of a program as a dataset."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from attrs import frozen

from llmx.errors import DataError, LlmxError
from llmx.given.component import require_contract
from llmx.protocols import Dataset, Document, Message
from llmx.recipe import Part
from llmx.registry import Registry

RECORDS = "jsonl"
"""The dataset that knows the forms of records: query and response, instruction and output, messages, text, …"""


@frozen
class Documents:
    """Documents in memory."""

    documents: tuple[Document, ...]

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def fingerprint(self) -> str:
        """Return a hash of what the documents say; where they came from is no part of it."""
        digest = hashlib.sha256()
        for each in self.documents:
            values = {**attrs.asdict(each), "origin": ""}
            digest.update(json.dumps(values, sort_keys=True, default=dict).encode("utf-8", "surrogatepass") + b"\n")
        return f"given {digest.hexdigest()}"

    @property
    def characters(self) -> int:
        """Characters of all texts and turns."""
        return sum(len(each.text) + sum(len(turn.content) for turn in each.messages) for each in self.documents)


def dataset_of(data: Any, registry: Registry) -> Dataset:
    """Return the dataset that an object is, or one of the texts, chats and records that it holds.

    Args:
        data: a `llmx.protocols.Dataset`, or an iterable of str, of chats (each a list of turns
            `{"role": …, "content": …}`), of records as a JSON Lines file has them, or of `Document`s, in any mixture.

    Raises:
        DataError: it is empty, or an item is none of these; the message says which one.
    """
    if hasattr(data, "fingerprint"):
        require_contract("data", data, Dataset)
        return cast(Dataset, data)
    if not isinstance(data, Iterable):
        raise DataError(f"data: a {type(data).__name__} holds no texts: give a list of texts or of chats, or a path")
    items = list(data)
    if not items:
        raise DataError("data: holds nothing: give texts or chats")
    documents: dict[int, Document] = {}
    records: dict[int, Mapping[str, Any]] = {}
    for number, item in enumerate(items):
        where = f"data[{number}]"
        if isinstance(item, str):
            documents[number] = Document(item, where)
        elif isinstance(item, Document):
            documents[number] = item
        else:
            records[number] = _record(item, where)
    documents |= _read(records, registry)
    return Documents(tuple(documents[number] for number in sorted(documents)))


def _record(item: Any, where: str) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        if "role" in item:
            raise DataError(f"{where}: is one turn: give a list of chats, each a list of turns")
        return item
    if isinstance(item, Sequence) and item and all(isinstance(turn, Mapping | Message) for turn in item):
        return {"messages": [turn_of(turn) for turn in item]}
    raise DataError(f"{where}: is a {type(item).__name__}, no text, chat or record")


def turn_of(turn: Mapping[str, Any] | Message) -> Mapping[str, Any]:
    """Return a turn as a record has it."""
    if isinstance(turn, Mapping):
        return turn
    given = {"reasoning_content": turn.reasoning, "tool_calls": list(map(dict, turn.tool_calls)), "loss": turn.loss}
    return {"role": turn.role, "content": turn.content, **{k: v for k, v in given.items() if v not in ("", [], None)}}


def _read(records: Mapping[int, Mapping[str, Any]], registry: Registry) -> dict[int, Document]:
    """Return the document of each record, read as a JSON Lines file is, whose plugin knows the forms of records."""
    if not records:
        return {}
    offer = registry.find("dataset", f"llmx:{RECORDS}")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "data.jsonl"
        try:
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records.values())
        except (TypeError, ValueError) as error:
            raise DataError(f"data: a record cannot be written as JSON: {error}") from error
        path.write_text(lines, encoding="utf-8", errors="surrogatepass")
        try:
            found = list(Part(RECORDS, offer, offer.component.options(path=str(path))).build())
        except LlmxError as error:
            raise DataError(str(error).replace(f"{path}:", "data, record ")) from error
    if len(found) != len(records):
        raise DataError(f"data: {len(records) - len(found)} of {len(records)} records hold no text and no chat")
    return {n: attrs.evolve(each, origin=f"data[{n}]") for n, each in zip(records, found, strict=True)}
