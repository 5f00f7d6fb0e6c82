"""A client of the OpenAI protocol that measures: streamed answers, retries, deadlines; the standard library alone."""

from __future__ import annotations

import codecs
import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, frozen

from llmx.compare.reply import Reply
from llmx.errors import LlmxError

TRIES = 4
LONGEST_WAIT_S = 60.0
"""Longest wait that a server's Retry-After is heeded for."""
CHECK_S = 10.0
MOST_BYTES = 2**23
"""Longest answer that is read: far more than tokens are asked for."""
AGAIN = (408, 409, 429, 500, 502, 503, 504, 529)
"""States of a server that may pass."""


class _RefusedError(LlmxError):
    """A server answered with an error; `again_s` says after how long another try may help, None that none will."""

    def __init__(self, message: str, again_s: float | None, body: str = "") -> None:
        super().__init__(message)
        self.again_s, self.body = again_s, body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is sent to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


@frozen
class Api:
    """A model behind an OpenAI API.

    Attributes:
        key: sent as a bearer token; never part of a message.
    """

    url: str
    model: str
    key: str
    timeout_s: float
    stream: bool = True

    def first_model(self) -> str:
        """Return the name of the first model that the server lists, having seen that it answers and takes the key.

        Raises:
            LlmxError: it cannot be reached, refuses the key, or lists no models where a name is needed.
        """
        try:
            with self._open("/models", None, CHECK_S) as response:
                listed = json.loads(response.read(MOST_BYTES))
            names = [str(each["id"]) for each in listed["data"]]
        except _RefusedError as error:
            if self.model and error.body != "key":  # some servers do not list their models
                return self.model
            raise LlmxError(str(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            names = []
        if not (self.model or names):
            raise LlmxError(f"{self.url}: lists no models: name one by model")
        return self.model or names[0]

    def complete(self, path: str, body: dict[str, Any]) -> Reply:
        """Ask, again where that may help, and return the reply; one without an answer says why in `error`."""
        body = {"model": self.model, **body}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        error = ""
        for tries in range(1, TRIES + 1):
            try:
                return evolve(self._once(path, body), tries=tries)
            except _RefusedError as refused:
                error = str(refused)
                if adapted := _adapted(body, refused.body):
                    body = adapted
                elif refused.again_s is None or tries == TRIES:
                    break
                else:
                    time.sleep(min(max(refused.again_s, 2.0 ** (tries - 2)), LONGEST_WAIT_S))
        return Reply(error=error, tries=tries)

    def _once(self, path: str, body: dict[str, Any]) -> Reply:
        began = time.perf_counter()
        try:
            with self._open(path, body, self.timeout_s) as response:
                kind = response.headers.get_content_type()
                pieces = self._read(response, began + self.timeout_s)
                if kind == "text/event-stream":
                    return self._streamed(pieces, began)
                whole = _object("".join(pieces))
                return evolve(self._whole(whole), total_s=time.perf_counter() - began)
        except (OSError, http.client.HTTPException) as error:  # while the answer comes
            why = self._clean(str(error) or type(error).__name__)
            raise _RefusedError(f"{self.url}: broke off: {why}", 0.0) from None

    def _open(self, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        """Send a request and return the response.

        Raises:
            _RefusedError: there is no connection, or an error for an answer.
        """
        headers = {"Accept": "text/event-stream, application/json", "User-Agent": "llmx"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        around = [urllib.request.ProxyHandler({})] if _is_loopback(self.url) else []
        try:
            return urllib.request.build_opener(_NoRedirect, *around).open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _RefusedError(f"{self.url}: cannot be reached: {self._clean(str(reason))}", 0.0) from None

    def _refusal(self, error: urllib.error.HTTPError) -> _RefusedError:
        text = self._clean(error.read(4096).decode("utf-8", "replace"))
        try:
            told = json.loads(text)["error"]
            text = str(told["message"] if isinstance(told, dict) else told)
        except (ValueError, KeyError, TypeError):
            pass  # it is shown as it came
        message = f"{self.url}: HTTP {error.code}: {' '.join(text.split())[:300] or error.reason}"
        wait = error.headers.get("Retry-After", "")
        again = (float(wait) if wait.isdigit() else 0.0) if error.code in AGAIN else None
        return _RefusedError(message, again, "key" if error.code in (401, 403) else text)

    def _clean(self, text: str) -> str:
        """Return a server's words without the key, which some repeat."""
        return text.replace(self.key, "***") if self.key else text

    def _read(self, response: Any, until: float) -> Iterator[str]:
        """Yield the text of a response as it comes, until a point in time."""
        decoder, size = codecs.getincrementaldecoder("utf-8")("replace"), 0
        while data := response.read1(65_536):
            size += len(data)
            if time.perf_counter() > until or size > MOST_BYTES:
                raise TimeoutError(f"took longer than {self.timeout_s:g} s" if size <= MOST_BYTES else "is too long")
            yield decoder.decode(data)
        if getattr(response, "length", 0):
            raise http.client.IncompleteRead(b"")
        yield decoder.decode(b"", True)

    def _streamed(self, pieces: Iterator[str], began: float) -> Reply:
        texts: list[str] = []
        first: float | None = None
        tokens: int | None = None
        finish = ""
        for event in _events(pieces):
            now = time.perf_counter()
            if event == "[DONE]":
                return Reply("".join(texts), now - began, first, tokens, finish)
            value = _object(event)
            self._raise_told(value)
            tokens = _tokens(value) or tokens
            for choice in value.get("choices") or []:
                delta = choice.get("delta") or {}
                text = delta.get("content") or choice.get("text") or ""
                if first is None and (text or delta.get("reasoning_content") or delta.get("reasoning")):
                    first = now - began
                texts.append(str(text))
                finish = str(choice.get("finish_reason") or finish)
        if not finish:
            raise _RefusedError(f"{self.url}: the stream ended before the answer did", 0.0)
        return Reply("".join(texts), time.perf_counter() - began, first, tokens, finish)

    def _whole(self, value: dict[str, Any]) -> Reply:
        self._raise_told(value)
        try:
            choice = value["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
        except (LookupError, TypeError):
            raise _RefusedError(f"{self.url}: answered with no choices: is it an OpenAI API?", None) from None
        return Reply(str(text or ""), tokens=_tokens(value), finish_reason=str(choice.get("finish_reason") or ""))

    def _raise_told(self, value: dict[str, Any]) -> None:
        if told := value.get("error"):
            text = str(told.get("message", told) if isinstance(told, dict) else told)
            raise _RefusedError(f"{self.url}: {self._clean(' '.join(text.split()))[:300]}", None)


def _adapted(body: dict[str, Any], refusal: str) -> dict[str, Any] | None:
    """Return a request in the words of a server that refused a field by its name, None where that is not why."""
    if "stream_options" in refusal and "stream_options" in body:
        return {name: value for name, value in body.items() if name != "stream_options"}
    if "max_completion_tokens" in refusal and "max_tokens" in body:
        return {{"max_tokens": "max_completion_tokens"}.get(name, name): value for name, value in body.items()}
    return None


def _object(text: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        HTTPException: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise http.client.HTTPException(f"is no JSON object: {text[:100]!r}")
    return value


def _tokens(value: dict[str, Any]) -> int | None:
    usage = value.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _events(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the data of server-sent events (the parts of the format that OpenAI's streams use)."""
    rest, data = "", []
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in (each.removesuffix("\r") for each in lines):
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []
    if rest.startswith("data:"):
        data.append(rest[5:].strip())
    if data:
        yield "\n".join(data)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
