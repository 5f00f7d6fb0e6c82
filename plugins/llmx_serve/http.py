"""Bodies in, JSON and server-sent events out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmx_serve.asking import Asked
from llmx_serve.faults import ApiError, busy, unavailable
from llmx_serve.fields import Fields, parse_object
from llmx_serve.limits import Limits
from llmx_serve.wire import Job

DONE = b"data: [DONE]\n\n"
BEAT = b": still here\n\n"
SMALL_BYTES = 2**16
"""Bodies below this are parsed on the event loop; one of millions of lists takes a second, and other streams go on.
They are not refused for what others hold, either."""
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # a proxy must not collect a stream


class Gone(Exception):  # noqa: N818  # no fault: the client does not want the answer any more
    """The client closed its connection."""


class Json(Response):
    """A value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class Bodies:
    """Reads the bodies of requests, and counts the bytes of those that are there: they fill the memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.bodies * limits.body_bytes
        self._held = 0

    @contextlib.asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[Fields]:
        """Give the object in a request's body; its bytes are counted until the block is left.

        Raises:
            ApiError: it is too long, does not come in time, or is no JSON object, or too many bytes are held already.
        """
        body = bytearray()
        try:
            await self._fill(body, request)
            if len(body) < SMALL_BYTES:
                found = parse_object(bytes(body), self._limits.depth)
            else:
                found = await asyncio.to_thread(parse_object, bytes(body), self._limits.depth)
            yield Fields(found)
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        told = request.headers.get("content-length", "")
        if told.isdigit() and (len(told) > 18 or int(told) > self._limits.body_bytes):
            raise _too_long(self._limits)
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > self._limits.body_bytes:
                        raise _too_long(self._limits)
                    if len(body) > SMALL_BYTES and self._held > self._most:  # there is room for small ones
                        raise busy("the bodies of other requests fill the memory for them: ask again later", 1)
        except TimeoutError as error:
            text = f"the body did not come within {self._limits.body_s:g} seconds"
            raise ApiError(408, text, code="request_timeout", headers={"connection": "close"}) from error
        except ClientDisconnect as error:
            raise Gone from error


def _too_long(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is longer than {limits.body_bytes} bytes", code="body_too_long")


async def gone(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def until_gone(receive: Receive, asked: Asked) -> None:
    """Cancel the answers when the client goes away."""
    await gone(receive)
    asked.cancel()


async def whole(job: Job, asked: Asked, receive: Receive) -> Response:
    """Return all answers at once.

    Raises:
        Gone: the client went away first.
        ApiError: an answer failed.
    """
    watch = asyncio.create_task(until_gone(receive, asked))
    try:
        async with asked:
            async for _ in asked.news():
                pass
            # beside the event loop: a log-probability's alternatives are decoded one by one, and may be a million
            return await asyncio.to_thread(lambda: Json(job.writer.completed(asked.answers)))
    except ApiError:
        if watch.done():
            raise Gone from None
        raise
    finally:
        watch.cancel()


class EventStream(Response):
    """Answers as they come, framed as OpenAI frames them."""

    def __init__(self, job: Job, asked: Asked) -> None:
        super().__init__(headers=STREAM_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._job, self._asked = job, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(until_gone(receive, self._asked))
        try:
            async with self._asked:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for text in self._events():
                    if watch.done():
                        return
                    await send({"type": "http.response.body", "body": text, "more_body": True})
                await send({"type": "http.response.body", "body": DONE})
        finally:
            watch.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        writer, answers = self._job.writer, self._asked.answers
        beside = {"usage": None} if self._job.with_usage else {}  # as OpenAI has it in all chunks but the last
        yield b"".join(_event({**each, **beside}) for each in writer.opening())
        try:
            async for news in self._asked.news():
                chunks = [] if news is None else writer.deltas(news, answers[news.index])
                if news is None or chunks:
                    yield b"".join(_event({**each, **beside}) for each in chunks) or BEAT
        except ApiError as error:  # the status is sent already
            yield _event(error.body())
            return
        except asyncio.CancelledError:  # the server ends, and the engine is in a long step
            yield _event(unavailable("the answer was cut off: the server ends").body())
            return
        if self._job.with_usage:
            yield _event(writer.last(answers))


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
