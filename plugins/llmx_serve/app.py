"""The routes."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from llmx import LlmxError, RecipeError
from llmx_serve.asking import Asked, requests_of, submit
from llmx_serve.calls import forces
from llmx_serve.chat import read_chat
from llmx_serve.completions import read_completion
from llmx_serve.faults import ApiError, busy
from llmx_serve.fields import Fields
from llmx_serve.gate import Gate, Rules, State, answer_of
from llmx_serve.http import Bodies, EventStream, Gone, Json, gone, whole
from llmx_serve.limits import Limits
from llmx_serve.metrics import Metrics
from llmx_serve.models import Models
from llmx_serve.tokens import detokenize, tokenize
from llmx_serve.wire import Job

PAGE = Path(__file__).parent / "page"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
Result = TypeVar("Result")


class Service:
    """Answers requests with models."""

    def __init__(self, models: Models, limits: Limits, state: State) -> None:
        self.models, self.limits, self.state = models, limits, state
        self.metrics = Metrics(models, state)
        self.bodies = Bodies(limits)
        self._pool = ThreadPoolExecutor(2, "llmx-prepare")
        self._slow_pool = ThreadPoolExecutor(1, "llmx-schema")  # grammars may take seconds: others pass by
        self._preparing = 0

    async def prepare(self, receive: Receive, work: Callable[[], Result], *, slow: bool = False) -> Result:
        """Do what takes time, tokenising and templates, beside the event loop.

        Raises:
            ApiError: too much waits for it already.
            Gone: the client went away before it was begun, so that it never is.
        """
        if self._preparing >= self.limits.preparing:
            raise busy(f"{self._preparing} requests are being prepared already: ask again later", 1)
        self._preparing += 1
        queued = (self._slow_pool if slow else self._pool).submit(work)
        done, watch = asyncio.wrap_future(queued), asyncio.create_task(gone(receive))
        try:
            await asyncio.wait([done, watch], return_when=asyncio.FIRST_COMPLETED)
            if queued.cancel():
                raise Gone
            return await done
        finally:
            queued.cancel()
            watch.cancel()
            self._preparing -= 1

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, read_chat)

    async def completions(self, request: Request) -> Response:
        return await self._complete(request, read_completion)

    async def _complete(self, request: Request, read: Callable[[Fields, Models, Limits], Job]) -> Response:
        async with self.bodies.reading(request) as fields:

            def ask() -> tuple[Job, list[Any]]:
                job = read(fields, self.models, self.limits)
                return job, submit(job.served, requests_of(job.served, job.prompts, job.sampling))

            slow = fields.has("response_format") or forces(fields)
            job, answers = await self.prepare(request.receive, ask, slow=slow)
        asked = Asked(answers, self.metrics.answered)
        if job.stream:
            return EventStream(job, asked)
        return await whole(job, asked, request.receive)

    async def list_models(self, _request: Request) -> Response:
        return Json({"object": "list", "data": [each.card() for each in self.models.by_name.values()]})

    async def one_model(self, request: Request) -> Response:
        return Json(self.models.named(request.path_params["name"]).card())

    async def tokenize(self, request: Request) -> Response:
        async with self.bodies.reading(request) as fields:
            return Json(await self.prepare(request.receive, lambda: tokenize(fields, self.models, self.limits)))

    async def detokenize(self, request: Request) -> Response:
        async with self.bodies.reading(request) as fields:
            return Json(await self.prepare(request.receive, lambda: detokenize(fields, self.models)))

    async def health(self, _request: Request) -> Response:
        dead = [name for name, each in self.models.by_name.items() if not each.base.engine.alive]
        if dead:
            return Json({"status": "failed", "models": dead}, 503)
        return Json({"status": "ending"}, 503) if self.state.draining else Json({"status": "ok"})

    async def figures(self, _request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": METRICS})

    async def page(self, request: Request) -> Response:
        """Return a file of the chat page; only those that lie in its folder have a name."""
        name = request.path_params.get("name", "index.html")
        path = next((each for each in PAGE.iterdir() if each.name == name and each.is_file()), None)
        if path is None:
            raise HTTPException(404)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        return Response(path.read_bytes(), headers={"content-type": kind, "cache-control": "no-cache"})


def make_app(models: Models, limits: Limits, rules: Rules, state: State) -> ASGIApp:
    """Return the server's application."""
    service = Service(models, limits, state)
    post = ["POST"]
    routes = [
        Route("/", service.page),
        Route("/page/{name}", service.page),
        Route("/health", service.health),
        Route("/metrics", service.figures),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.one_model),
        Route("/v1/chat/completions", service.chat, methods=post),
        Route("/v1/completions", service.completions, methods=post),
        Route("/tokenize", service.tokenize, methods=post),
        Route("/detokenize", service.detokenize, methods=post),
    ]
    handlers: dict[Any, Any] = {
        ApiError: lambda _, error: answer_of(error),
        HTTPException: _not_routed,
        LlmxError: _refused,
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Gate(app, rules, state, service.metrics.count)


async def _not_routed(request: Request, error: HTTPException) -> Response:
    text = f"{request.method} {request.url.path[:100]}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    return answer_of(ApiError(error.status_code, text, code=code, headers=error.headers or {}))


async def _refused(_request: Request, error: LlmxError) -> Response:
    """Tell what a template or a tokenizer could not do with a request."""
    code = 400 if isinstance(error, RecipeError) else 503
    return answer_of(ApiError(code, str(error).partition("\n")[0], code="refused"))


async def _failed(_request: Request, _error: Exception) -> Response:
    """Tell of a fault of ours; Starlette raises it again, so that it is logged."""
    return answer_of(ApiError(500, "the server failed; its log says how", code="internal_error"))
