"""What stands before every route: who may ask, and what every response says to browsers."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmx_serve.faults import ApiError, unavailable
from llmx_serve.http import Gone, Json

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
GONE = 499
"""What a request is counted as whose client went away (nginx's number)."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@frozen
class Rules:
    """Who may ask.

    Attributes:
        key: what a request must carry; None is for servers that only this machine can reach.
        hosts: names besides loopback's that a request may call the server by where there is no key.
    """

    key: str | None = None
    hosts: tuple[str, ...] = field(default=(), converter=lambda names: tuple(name.lower() for name in names))

    def check(self, scope: Scope) -> None:
        """Let a request pass.

        Raises:
            ApiError: it may not; it was not read.
        """
        headers = Headers(scope=scope)
        if self.key is not None:
            if not _is_page(scope):
                self._check_key(headers)
            return
        # another site's page that has a name resolve to this machine, or sends a form here, must not use the models
        host = headers.get("host", "")
        name = _hostname(host)
        if not (is_loopback(name) or name in self.hosts):
            text = f"host {name[:60]!r} is not served here: use 127.0.0.1, or start the server with --allow-host"
            raise ApiError(403, text, code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "requests of other sites' pages are refused", code="origin_not_allowed")

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        told = given.strip() if scheme.lower() == "bearer" else ""
        if not hmac.compare_digest(told.encode("utf-8", "replace"), (self.key or "").encode()):
            text = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
            raise ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _is_page(scope: Scope) -> bool:
    """Return whether the request is for the page's own files, which ask for the key."""
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith("/page/"))


@define
class State:
    """Whether the server takes requests, and those it has taken."""

    draining: bool = False
    over: bool = False
    """Whether the time of what was begun has passed."""
    tasks: set[asyncio.Task[Any] | None] = field(factory=set)

    @property
    def going(self) -> int:
        """Requests that are being answered."""
        return len(self.tasks)

    def cut(self) -> None:
        """End what is still being answered: a body that does not come, a preparation in a thread, a slow reader."""
        self.over = True
        for task in self.tasks:
            if task is not None:
                task.cancel()


class Gate:
    """Checks a request before it reaches its route, and counts it.

    Args:
        count: called with route, status and seconds of each request.
    """

    def __init__(self, app: ASGIApp, rules: Rules, state: State, count: Callable[[str, int, float], None]) -> None:
        self._app, self._rules, self._state, self._count = app, rules, state, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began_s, status = time.perf_counter(), GONE

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
                if self._state.draining:
                    headers["connection"] = "close"
            await send(message)

        task = asyncio.current_task()
        self._state.tasks.add(task)
        try:
            await self._pass(scope, receive, told)
        except asyncio.CancelledError:
            if not self._state.over:
                raise
            if status == GONE:
                await answer_of(unavailable("the server ends; this request took too long"))(scope, receive, told)
        finally:
            self._state.tasks.discard(task)
            self._count(_route(scope), status, time.perf_counter() - began_s)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._rules.check(scope)
            if self._state.draining and scope["path"] not in ("/health", "/metrics"):
                raise unavailable("the server ends and takes no more requests")
        except ApiError as error:
            await answer_of(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Gone:
            return


def answer_of(error: ApiError) -> Json:
    """Return what is sent for an error."""
    headers: Mapping[str, str] = error.headers
    return Json(error.body(), error.status, dict(headers))


def _route(scope: Scope) -> str:
    """Return the path as routes are named; other paths have one name, for anyone can make up more."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))
