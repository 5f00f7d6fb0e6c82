"""Chats in files: saved as JSON lines that llmx trains on, and read as it reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmx import DataError, Registry
from llmx.options import structure
from llmx.protocols import Message


def save_chat(path: Path, system: str, messages: list[Message]) -> int:
    """Add a chat to a file of JSON lines, and return how many messages it has.

    Raises:
        DataError: there is nothing to save, or the file cannot be written.
    """
    turns = ([Message("system", system)] if system else []) + messages
    if not any(message.role == "assistant" for message in turns):
        raise DataError("/save: nothing was answered yet")
    line = json.dumps({"messages": [_plain(message) for message in turns]}, ensure_ascii=False)
    try:
        with path.expanduser().open("ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":
                file.write(b"\n")
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise DataError(f"/save: {path}: {error.strerror}") from error
    return len(turns)


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    found: bytes = file.read(1)
    return found


def _plain(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.loss is not None:
        found["loss"] = message.loss
    return found


def load_chat(path: Path) -> tuple[Message, ...]:
    """Return the last chat of a file that llmx could train on.

    Raises:
        DataError: there is none.
    """
    offer = Registry().handling("dataset", path.suffix)
    if offer is None:
        raise DataError(f"/load: {path}: give a file of chats, such as one that /save wrote")
    if not path.expanduser().is_file():
        raise DataError(f"/load: {path}: no such file")
    options, faults = structure(offer.component.options, {"path": str(path.expanduser())}, "/load")
    if faults:
        raise DataError(*(f"{fault.path}: {fault.message}" for fault in faults))
    chats = [document for document in offer.component.load()(options) if document.messages]
    if not chats:
        raise DataError(f"/load: {path}: holds no chat")
    messages: tuple[Message, ...] = chats[-1].messages
    return messages


def history_file() -> Path:
    """Return the file of what was typed, made for its user's eyes alone; in `XDG_STATE_HOME` or ~/.local/state.

    Raises:
        OSError: it cannot be written.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "llmx" / "chat_history"
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    return path
