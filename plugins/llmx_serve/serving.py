"""A server that runs until it is told to end, and then ends what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn
from attrs import field, frozen

from llmx import RecipeError
from llmx_serve.app import make_app
from llmx_serve.gate import Rules, State, is_loopback
from llmx_serve.limits import Limits
from llmx_serve.models import Models
from llmx_serve.protocol import patient

LOOK_S = 0.05
CUT_S = 1.0
"""Seconds in which what was cut off must have been told so, and again in which its connections must be closed."""
LAST_S = 4.0
"""Seconds after its time at which the process ends in any case: a template or a step of a large model cannot be
interrupted, and the interpreter would wait for their threads."""


@frozen
class Place:
    """Where a server listens, and who may ask.

    Attributes:
        port: 0 takes one that is free.
        drain_s: seconds that answers are given to end, once the server is told to.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    rules: Rules = field(factory=Rules)
    drain_s: float = 30.0

    def bind(self) -> socket.socket:
        """Return a socket that listens.

        Raises:
            RecipeError: others could reach it and there is no key, or the address cannot be had.
        """
        if not is_loopback(self.host) and self.rules.key is None:
            raise RecipeError(
                f"--host {self.host}: others can reach it: set an API key in LLMX_API_KEY, or leave --host out"
            )
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(found[0], found[1])
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(found[4])
        except OSError as error:
            raise RecipeError(f"--host {self.host} --port {self.port}: {error.strerror}: give another") from error
        return bound


class Server(uvicorn.Server):
    """uvicorn, which leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def serve(models: Models, place: Place, limits: Limits, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, and then until what was begun is done, or its time is over.

    Args:
        ready: called with the server's address when it listens.

    Raises:
        RecipeError: as `Place.bind`.
    """
    with contextlib.closing(place.bind()) as bound:
        try:
            asyncio.run(_serve(bound, models, place, limits, ready))
        finally:
            models.close()


async def _serve(
    bound: socket.socket, models: Models, place: Place, limits: Limits, ready: Callable[[str], None]
) -> None:
    state = State()
    config = uvicorn.Config(
        make_app(models, limits, place.rules, state),
        http=patient(limits),
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=round(CUT_S),
    )
    server, stop = Server(config), asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, _told_to_end, stop, server, place.drain_s)
    name, port = bound.getsockname()[:2]
    running = asyncio.create_task(server.serve(sockets=[bound]))
    while not (server.started or running.done()):
        await asyncio.sleep(LOOK_S)
    ready(f"http://{f'[{name}]' if ':' in name else name}:{port}")
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
    await _drain(state, models, place.drain_s, server)
    server.should_exit = True
    await running


def _told_to_end(stop: asyncio.Event, server: uvicorn.Server, drain_s: float) -> None:
    again = stop.is_set()
    server.force_exit = server.should_exit = again  # the second time: at once
    stop.set()
    last = threading.Timer(LAST_S if again else drain_s + LAST_S, os._exit, (0,))
    last.daemon = True
    last.start()


async def _drain(state: State, models: Models, drain_s: float, server: uvicorn.Server) -> None:
    """Take no more requests, and wait for those that are being answered; cut off what takes longer."""
    state.draining = True
    if state.going:
        sys.stderr.write(f"llmx serve: ending; {state.going} requests have {drain_s:g} s\n")
    await _until_done(state, server, drain_s)
    closing = asyncio.create_task(asyncio.to_thread(models.close))
    await _until_done(state, server, CUT_S)  # streams end by an error that says why
    state.cut()
    await _until_done(state, server, CUT_S)
    await asyncio.wait([closing], timeout=CUT_S)


async def _until_done(state: State, server: uvicorn.Server, seconds: float) -> None:
    """Wait until nothing is being answered, or its time is over, or the server is to end at once."""
    until = asyncio.get_running_loop().time() + seconds
    while state.going and asyncio.get_running_loop().time() < until and not server.force_exit:
        await asyncio.sleep(LOOK_S)
