"""Files of prompts: one text a line, or JSON lines with a prompt or the messages of a chat each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from attrs import evolve, frozen

from llmx.data.batches import stream_seed
from llmx.errors import DataError, LlmxError, RecipeError
from llmx.generate.prompts import ChatPrompt
from llmx.generate.request import Answer, Request
from llmx.protocols import ROLES, Message

if TYPE_CHECKING:
    from llmx.generate.engine import Engine
    from llmx.generate.language_model import LanguageModel

JSON_LINES = (".jsonl", ".ndjson")


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
    """Return the prompts of a file; a file that ends in `.jsonl` holds objects, any other a text on each line.

    Args:
        chat: a text is a user's message.

    Raises:
        DataError: with one line for each bad one, or the file has no prompt or cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    found: list[Asked] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_asked(f"{path}:{number}", line, path.suffix in JSON_LINES, chat))
        except DataError as error:
            faults.extend(error.faults)
    if faults:
        raise DataError(*faults)
    if not found:
        raise DataError(f"{path}: holds no prompt: write one on each line")
    return found


def _asked(where: str, line: bytes, is_json: bool, chat: bool) -> Asked:
    if is_json:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from None
    else:
        try:
            row = {"prompt": line.decode().rstrip("\r")}
        except UnicodeDecodeError:
            raise DataError(f"{where}: is not valid UTF-8: convert it, as with iconv -t UTF-8") from None
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise DataError(f'{where}: must be an object with "prompt" or "messages"')
    if "messages" in row:
        return Asked(where, row, ChatPrompt(messages_of(row["messages"], where), _tools_of(row, where)))
    text = row["prompt"]
    if not isinstance(text, str):
        raise DataError(f"{where}: prompt: must be text, not {text!r}")
    return Asked(where, row, ChatPrompt((Message("user", text),)) if chat else text)


def messages_of(given: Any, where: str) -> tuple[Message, ...]:
    """Return messages in OpenAI's form that an assistant is to answer.

    Raises:
        DataError: they are none, or end with what an assistant said.
    """
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: messages: must be a list with a message or more")
    found = []
    for number, each in enumerate(given):
        path = f"{where}: messages[{number}]"
        role = ROLES.get(each.get("role", "")) if isinstance(each, dict) else None
        if role is None:
            raise DataError(f"{path}: must have a role, one of {', '.join(ROLES)}")
        content = each.get("content")
        if content is None and each.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            raise DataError(f"{path}.content: must be text, not {content!r}")
        reasoning = each.get("reasoning_content") or ""
        calls = tuple(_call(call, path) for call in each.get("tool_calls") or ())
        found.append(Message(role, content, reasoning=str(reasoning), tool_calls=calls))
    if found[-1].role == "assistant":
        raise DataError(f"{where}: messages: end with the assistant's: there is nothing left to answer")
    return tuple(found)


def _call(given: Any, path: str) -> Mapping[str, Any]:
    call = given.get("function", given) if isinstance(given, dict) else {}
    arguments = call.get("arguments", {})
    try:
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        raise DataError(f"{path}.tool_calls: each must have a name and arguments that are an object")
    return {"name": call["name"], "arguments": arguments}


def _tools_of(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
    tools = [] if row.get("tools") is None else row["tools"]
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise DataError(f"{where}: tools: must be a list of objects")
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
