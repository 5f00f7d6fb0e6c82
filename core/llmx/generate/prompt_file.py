"""Files of prompts: one text a line, or JSON lines with a prompt or the messages of a chat each."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from attrs import evolve, frozen

from llmx.data.batches import stream_seed
from llmx.errors import DataError, LlmxError, RecipeError
from llmx.generate.messages import messages_of
from llmx.generate.prompts import ChatPrompt
from llmx.generate.request import Answer, Request
from llmx.protocols import Message

if TYPE_CHECKING:
    from llmx.generate.engine import Engine
    from llmx.generate.language_model import LanguageModel

JSON = (".jsonl", ".ndjson", ".json")
STDIN = Path("-")
ANSWER = ("text", "tokens", "finish_reason", "logprobs", "sample")
"""Where an answer is told in the row of its prompt."""
BOM = b"\xef\xbb\xbf"


@frozen
class Asked:
    """A line of a file of prompts.

    Attributes:
        where: the file and the line.
        row: what stands there, a text as `{"prompt": ...}`: the answer is told beside it.
    """

    where: str
    row: Mapping[str, Any]
    prompt: str | ChatPrompt


def read_prompts(path: Path, *, chat: bool = False) -> list[Asked]:
    """Return the prompts of a file, or of standard input for "-".

    A file that ends in `.jsonl` holds an object on each line, `.json` a list of them, any other a text on each line.
    Standard input is JSON lines where its first line is an object.

    Args:
        chat: a text is a user's message.

    Raises:
        DataError: with one line for each bad one, or the file has no prompt or cannot be read.
    """
    name = "stdin" if path == STDIN else str(path)
    try:
        given = (sys.stdin.buffer.read() if path == STDIN else path.read_bytes()).removeprefix(BOM)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    found: list[Asked] = []
    faults: list[str] = []
    lines = _elements(given, name) if path.suffix == ".json" else _lines(given, name)
    is_json = _is_object(lines) if path == STDIN else path.suffix in JSON
    for where, line in lines:
        try:
            found.append(_asked(where, _json(line) if is_json else _text(line), chat))
        except DataError as error:
            faults.extend(f"{where}: {fault}" for fault in error.faults)
    if faults:
        raise DataError(*faults)
    if not found:
        raise DataError(f"{name}: holds no prompt: write one on each line")
    return found


def _lines(given: bytes, name: str) -> list[tuple[str, bytes]]:
    """Return the lines that hold something, each after where it stands."""
    return [(f"{name}:{number}", line) for number, line in enumerate(given.split(b"\n"), 1) if line.strip()]


def _elements(given: bytes, name: str) -> list[tuple[str, bytes]]:
    """Return each element of a JSON list after where it stands; what is no JSON as a whole may be JSON lines.

    Raises:
        DataError: it is a list that is broken.
    """
    try:
        rows = orjson.loads(given)
    except orjson.JSONDecodeError as error:
        if given.lstrip().startswith(b"["):
            raise DataError(f"{name}: not valid JSON: {error}") from None
        return _lines(given, name)
    if not isinstance(rows, list):
        return [(name, given)]
    return [(f"{name}: [{number}]", orjson.dumps(row)) for number, row in enumerate(rows)]


def _is_object(lines: Sequence[tuple[str, bytes]]) -> bool:
    """Return whether the first of the lines is a JSON object."""
    try:
        return bool(lines) and isinstance(orjson.loads(lines[0][1]), dict)
    except orjson.JSONDecodeError:
        return False


def _json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error}") from None


def _text(line: bytes) -> dict[str, str]:
    try:
        return {"prompt": line.decode().rstrip("\r")}
    except UnicodeDecodeError:
        raise DataError("is not valid UTF-8: convert it, as with iconv -t UTF-8") from None


def _asked(where: str, row: Any, chat: bool) -> Asked:
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise DataError('must be an object with "prompt" or "messages"')
    if taken := next((name for name in ANSWER if name in row), None):
        raise DataError(f'"{taken}": is where the answer goes, which would replace it: give it another name')
    if "messages" in row:
        return Asked(where, row, ChatPrompt(messages_of(row["messages"]), _tools_of(row)))
    text = row["prompt"]
    if not isinstance(text, str):
        raise DataError(f"prompt: must be text, not {text!r}")
    return Asked(where, row, ChatPrompt((Message("user", text),)) if chat else text)


def _tools_of(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = [] if row.get("tools") is None else row["tools"]
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise DataError("tools: must be a list of objects")
    return tuple(tools)


def requests_of(
    loaded: LanguageModel, asked: Iterable[Asked], count: int, *, seed: int | None = None, **fields: Any
) -> list[Request]:
    """Return `count` requests for each prompt, in order; each is drawn with a stream of its own.

    Args:
        fields: what `LanguageModel.request` takes besides.

    Raises:
        RecipeError: with one line for each prompt that does not fit the model.
    """
    found: list[Request] = []
    faults: list[str] = []
    for number, each in enumerate(asked):
        try:
            first = loaded.request(each.prompt, seed=seed, **fields)
        except LlmxError as error:  # of the template too, which does not write every chat
            faults.append(f"{each.where}: {error}")
            continue
        given = loaded.options.seed if seed is None else seed
        streams = range(number * count, (number + 1) * count)
        found.extend(evolve(first, seed=stream_seed(given, "generate", stream)) for stream in streams)
    if faults:
        raise RecipeError(*faults)
    return found


def in_order(engine: Engine, requests: Iterable[Request]) -> Iterator[Answer]:
    """Yield an ended answer for each request, in their order; as many as the engine takes are computed together."""
    left, going = iter(requests), deque[Answer]()
    while True:
        while len(going) < engine.most_waiting and (request := next(left, None)) is not None:
            going.append(engine.submit(request))
        if not going:
            return
        yield going.popleft().wait()
