"""JSON records, one per line or in an array, and the text of a record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import JSON_SUFFIXES, JSONL_SUFFIXES, RecordOptions
from llmx_datasets.files import FileDataset

TEXTS = ("text", "content")
CHATS = ("messages", "conversations")
JOINED = (("instruction", "input", "output"), ("query", "response"))
KNOWN = (*TEXTS, *(key for keys in JOINED for key in keys), *CHATS)
"""Every field that may hold text of a record of a usual form."""


class JsonlDataset(FileDataset):
    """One record on each line; blank lines are passed over."""

    suffixes = JSONL_SUFFIXES
    options: RecordOptions

    def read(self, path: Path) -> Iterator[Document]:
        """Yield `file.jsonl:1`, `file.jsonl:2`, ... by line."""
        with path.open("rb") as file:  # only b"\n" ends a line; text mode would also split at a lone carriage return
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    origin = f"{path}:{number}"
                    yield Document(record_text(parse(text, origin), self.options.text_field, origin), origin)


class JsonDataset(FileDataset):
    """An array of records, or one record; the file is held in memory whole."""

    suffixes = JSON_SUFFIXES
    options: RecordOptions

    def read(self, path: Path) -> Iterator[Document]:
        """Yield `file.json[0]`, `file.json[1]`, ... by place in the array."""
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            return
        found = parse(text, str(path), whole_file=True)
        for number, record in enumerate(found if isinstance(found, list) else [found]):
            origin = f"{path}[{number}]"
            yield Document(record_text(record, self.options.text_field, origin), origin)


def parse(text: str, where: str, *, whole_file: bool = False) -> Any:
    """Return the value of a JSON text.

    Raises:
        DataError: it is not JSON; a line number is added to the name of a whole file.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if whole_file else ""
        advice = 'if each line is a record, set data.name = "jsonl"' if error.msg == "Extra data" else "mend the file"
        raise DataError(f"{where}{line}: not valid JSON: {error.msg} at column {error.colno}; {advice}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise DataError(f"{where}: JSON that cannot be read: {error}; mend the file") from error


def record_text(record: Any, text_field: str | None, where: str) -> str:
    """Return the text of a record; a field that is null counts as empty.

    Args:
        record: what one line, element or row holds.
        text_field: the field to take, or None to recognise one of the usual forms.
        where: put before an error.

    Raises:
        DataError: the record has not the field, or none of the forms, or a field is no text.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: a record must be an object with fields, not {type(record).__name__}; mend the file")
    single = [text_field] if text_field is not None else TEXTS
    for key in single:
        if key in record:
            return _string(record[key], key, where)
    if text_field is None:
        for keys in JOINED:
            if keys[0] in record and keys[-1] in record:
                return "\n\n".join(filter(None, (_string(record.get(key), key, where) for key in keys)))
        for key in CHATS:
            if key in record:
                return _chat_text(record[key], key, where)
    wanted = f"no field {text_field!r}" if text_field is not None else "no field is known to hold the text"
    keys_found = ", ".join(map(str, record)) or "none"
    raise DataError(f"{where}: {wanted}; set data.text_field to one of the fields found: {keys_found}")


def _chat_text(turns: Any, key: str, where: str) -> str:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{where}: {key} must be a list of messages; set data.text_field to a field with text")
    contents = [_string(turn.get("content", turn.get("value")), f"{key}.content", where) for turn in turns]
    return "\n\n".join(filter(None, contents))


def _string(value: Any, key: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise DataError(f"{where}: {key} must be text, not {kind}; set data.text_field to a field with text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, UTF-8 cannot
        raise DataError(
            f"{where}: {key} holds half a surrogate pair, \\u{ord(value[error.start]):04x}; mend it"
        ) from error
    return value
