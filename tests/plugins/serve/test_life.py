"""Who may ask, how a server ends, and what it says when an engine has died."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SAID: Any = [{"role": "user", "content": "Who is Bo?"}]
CHAT = "/v1/chat/completions"


def long_body(server: Any, **more: Any) -> dict[str, Any]:
    """Return a body whose answer does not end by itself."""
    with server.client() as client:
        ids = client.post("/tokenize", json={"messages": SAID}).json()["tokens"]
        empty = [n for n in set(ids) if not client.post("/detokenize", json={"tokens": [n]}).json()["prompt"]]
    bias = {str(token): -100 for token in {0, 1, 2, *empty}}
    return {"messages": SAID, "max_tokens": 900, "logit_bias": bias, **more}


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(plain_run: Path, serve: Any) -> Iterator[Any]:
    """A server with an API key."""
    with serve(plain_run, LLMX_API_KEY="s3cret") as server:
        yield server


ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/plain"),
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/no-such"),
    ("POST", "/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_key_is_asked_for_on_every_route(locked: Any, method: str, path: str) -> None:
    """Without it, with a wrong one and with one in another form: 401, whatever the route would say."""
    with locked.client() as client:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": "Bearer"}):
            response = client.request(method, path, headers=header)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        right = client.request(method, path, headers={"authorization": "Bearer s3cret"})
        assert right.status_code not in (401, 403)


def test_a_key_that_no_header_carries_is_refused(plain_run: Path, llmx_cli: Any) -> None:
    """One line, before a model is loaded, that does not tell the key."""
    for key in ("schlüssel", "two words"):
        for done in (llmx_cli("serve", plain_run, LLMX_API_KEY=key), llmx_cli("serve", plain_run, "--api-key", key)):
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert "must be ASCII letters, digits and signs without spaces" in done.stderr
            assert key not in done.stderr


def test_the_page_itself_needs_no_key(locked: Any) -> None:
    """It asks for it; and it may do nothing that the policy does not name."""
    with locked.client() as client:
        response = client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_others_are_let_in_by_a_key_alone(plain_run: Path, llmx_cli: Any) -> None:
    """An address that others can reach is refused without one, before a model is loaded."""
    for host in ("0.0.0.0", "::"):
        done = llmx_cli("serve", plain_run, "--host", host, "--port", "0")
        assert done.returncode == 2
        assert f"--host {host}: others can reach it: set an API key in LLMX_API_KEY" in done.stderr


def test_a_host_that_is_let_in_is_known_in_any_case() -> None:
    """As names of hosts have no case."""
    from llmx_serve.faults import ApiError
    from llmx_serve.gate import Rules

    rules = Rules(None, ("Foo.Example",))

    def check(host: bytes) -> None:
        rules.check({"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", host)]})

    for host in (b"Foo.Example", b"foo.example:8000", b"FOO.EXAMPLE"):
        check(host)
    with pytest.raises(ApiError):
        check(b"bar.example")


def test_other_sites_pages_are_refused(client: Any, server: Any) -> None:
    """A name that was made to resolve to this machine, or a form of another site; the page's own origin is not."""
    port = server.url.rpartition(":")[2]
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": ""}).status_code == 403
    assert client.get("/v1/models", headers={"host": "[::1"}).status_code == 403
    assert client.get("/v1/models", headers={"host": f"localhost:{port}"}).status_code == 200
    assert client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": "null"}).status_code == 403
    response = client.get("/v1/models", headers={"origin": server.url})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_signal_lets_answers_end(chat_run: Path, serve: Any) -> None:
    """SIGTERM: what is being answered goes on to its end, new requests are told 503, the exit code is 0."""
    with serve(chat_run) as server:
        body = long_body(server, stream=True, max_tokens=300)
        with server.client() as client, client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 5
            with server.client() as other:
                while (health := other.get("/health")).status_code == 200:
                    assert time.monotonic() < until
                assert health.json()["status"] == "ending"
                refused = other.post(CHAT, json={"messages": SAID})
                assert refused.status_code == 503
                assert refused.headers["retry-after"]
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert server.process.wait(20) == 0


def test_what_takes_too_long_is_cut_off(chat_run: Path, serve: Any) -> None:
    """After --drain-s a stream ends by an error that says why; the exit code is 0 all the same."""
    with serve(chat_run, "--drain-s", 0.2) as server:
        body = long_body(server, stream=True, n=16)
        with server.client() as client, client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert any("the server ends" in line for line in rest[-2:])
        assert server.process.wait(20) == 0


SLOW = """
import time
import llmx_serve.app, llmx_serve.chat
from llmx.generate.engine import Engine

def slow_read(*given):
    time.sleep(60)
    return llmx_serve.chat.read_chat(*given)

def slow_step(engine):
    if engine.stats().generated_tokens > 3:
        time.sleep(60)
    step(engine)

if "SLOW_READ" in __import__("os").environ:
    llmx_serve.app.read_chat = slow_read
step, Engine.step = Engine.step, slow_step
"""
"""Run first by a server's interpreter: templates, or a step of the model, then take a minute."""


def test_what_cannot_be_interrupted_is_cut_off(chat_run: Path, serve: Any, tmp_path: Path) -> None:
    """Preparations, half sent bodies: 503 in OpenAI's form once the time is over; the process ends with it."""
    import concurrent.futures

    (tmp_path / "sitecustomize.py").write_text(SLOW)
    with serve(chat_run, "--drain-s", 0.5, PYTHONPATH=str(tmp_path), SLOW_READ="1") as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool, raw(server) as half, server.client() as client:
            half.sendall(head("/tokenize", 100) + b"{")
            asked = [pool.submit(client.post, CHAT, json={"messages": SAID}) for _ in range(4)]
            while server.figure("llmx_going_requests") < 6:
                time.sleep(0.02)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            for response in [each.result(20) for each in asked]:
                assert response.status_code == 503
                assert response.json()["error"]["code"] == "unavailable"
                assert response.headers["retry-after"]
            assert half.recv(10_000).startswith(b"HTTP/1.1 503")
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 0.5 + 4 + 4
        assert "Traceback" not in server.log.read_text()
        assert "ERROR" not in server.log.read_text()


def test_a_step_that_takes_too_long_is_cut_off(chat_run: Path, serve: Any, tmp_path: Path) -> None:
    """A stream ends by its error, and a reader that has gone to sleep is not waited for."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    with serve(chat_run, "--drain-s", 0.5, PYTHONPATH=str(tmp_path)) as server:
        body = {"messages": SAID, "stream": True}
        with server.client() as client, client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()
            next(lines)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert any("the server ends" in line for line in rest[-2:])
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 0.5 + 4 + 4
        assert "Traceback" not in server.log.read_text()


def test_an_address_that_is_taken(plain_run: Path, server: Any, llmx_cli: Any) -> None:
    """One line, exit code 2."""
    done = llmx_cli("serve", plain_run, "--port", server.url.rpartition(":")[2])
    assert done.returncode == 2
    assert "in use" in done.stderr


def test_a_dead_engine_is_told_at_once(chat_run: Path) -> None:
    """/health fails, streams end by an error, requests are 503; nothing waits."""
    import asyncio

    import httpx

    import llmx
    from llmx_serve.app import make_app
    from llmx_serve.gate import Rules, State
    from llmx_serve.limits import Limits
    from llmx_serve.models import Base, Models, Served

    base = Base.start(llmx.load(chat_run))
    app = make_app(Models([Served("chats", base)]), Limits(), Rules(), State())

    def die() -> None:
        raise SystemExit("killed")

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=20) as client:
            assert (await client.get("/health")).status_code == 200
            going = asyncio.create_task(client.post(CHAT, json={"messages": SAID, "n": 16, "max_tokens": 900}))
            while not base.engine.stats().active:
                await asyncio.sleep(0.001)
            base.engine.step = die
            cut = await going
            assert (await client.get("/health")).status_code == 503
            assert cut.status_code in (200, 503)
            later = await client.post(CHAT, json={"messages": SAID})
            assert later.status_code == 503
            assert later.json()["error"]["type"] == "server_error"
            assert (await client.get("/metrics")).text.count('llmx_up{model="chats"} 0.0') == 1

    silent, threading.excepthook = threading.excepthook, lambda _: None
    try:
        asyncio.run(ask())
    finally:
        threading.excepthook = silent


# --- too much, too slow ---------------------------------------------------------------------------------------------


def test_too_many_requests_are_told_to_come_back(chat_run: Path, serve: Any) -> None:
    """429 with Retry-After once the slots and the queue are full; those inside are answered."""
    import concurrent.futures

    with serve(chat_run, "--slots", 1, "--waiting", 2) as server, server.client() as client:
        body = long_body(server, max_tokens=150)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.post(CHAT, json=body), range(8)))
        statuses = [each.status_code for each in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 3
        refused = next(each for each in answers if each.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        # all of n or none: a request whose answers do not fit leaves none of them behind
        with client.stream("POST", CHAT, json={**body, "stream": True}):
            assert client.post(CHAT, json={**body, "n": 3}).status_code == 429
        server.wait_idle(5)
        for asked in ({"n": 4}, {"n": 16}):  # what never fits need not come back
            never = client.post(CHAT, json={**body, **asked})
            assert never.status_code == 400
            assert never.json()["error"]["param"] == "n"
            assert "more than the 3" in never.json()["error"]["message"]
        assert client.post(CHAT, json={**body, "max_tokens": 1}).status_code == 200


def test_what_waits_for_a_client_that_left_is_not_begun() -> None:
    """Its preparation is taken out of the queue, and its place there is free; one that goes on is waited for."""
    import asyncio

    from llmx_serve.app import Service
    from llmx_serve.gate import State
    from llmx_serve.http import Gone
    from llmx_serve.limits import Limits
    from llmx_serve.models import Models

    service, block, begun = Service(Models([]), Limits(), State()), threading.Event(), []

    async def left() -> Any:
        return {"type": "http.disconnect"}

    async def stays() -> Any:
        await asyncio.sleep(60)

    async def ask() -> None:
        going = [asyncio.create_task(service.prepare(left, block.wait)) for _ in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(Gone):
            await service.prepare(left, lambda: begun.append("left"))
        assert service._preparing == len(going)
        waits = asyncio.create_task(service.prepare(stays, lambda: begun.append("stays")))
        await asyncio.sleep(0)
        block.set()
        await asyncio.gather(*going, waits)

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert begun == ["stays"]


def raw(server: Any) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n".encode()


def test_bodies_that_fill_their_memory_are_refused(plain_run: Path, serve: Any) -> None:
    """429 once so many bytes are held for bodies that are not whole yet; what is let go is free again."""
    size = 100_000
    with serve(plain_run, "--max-body-bytes", size) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(raw(server)) for _ in range(8)]
        for each in slow:
            each.sendall(head("/tokenize", size) + b" " * (size - 1))
        more = raw(server)
        with more, server.client() as client:
            more.sendall(head("/tokenize", 100) + b"  ")  # few bytes hold no place of a large body
            until = time.monotonic() + 20
            body = b" " * 90_000 + b'{"prompt": "Bo"}'
            while (response := client.post("/tokenize", content=body)).status_code == 200:
                assert time.monotonic() < until
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert client.post("/tokenize", json={"prompt": "Bo"}).status_code == 200
            slow[0].sendall(b"x")
            assert slow[0].recv(100).startswith(b"HTTP/1.1 400")
            assert client.post("/tokenize", content=body).status_code == 200


def test_an_upgrade_that_is_not_spoken_is_no_matter(plain_run: Path, serve: Any) -> None:
    """The request is answered as any other, and the log advises to install nothing."""
    with serve(plain_run) as server, server.client() as client:
        headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert client.get("/health", headers=headers).status_code == 200
        assert "WebSocket" not in server.log.read_text()
        assert "upgrade" not in server.log.read_text()


@pytest.mark.long
def test_a_body_that_does_not_come(server: Any) -> None:
    """408 after 20 seconds, however many bytes have dripped in; nobody else waits meanwhile."""
    with raw(server) as slow, server.client() as client:
        slow.sendall(head("/tokenize", 100))
        began = time.monotonic()
        slow.settimeout(1)
        answer = b""
        while not answer and time.monotonic() - began < 40:
            try:
                slow.sendall(b" ")
                assert client.get("/health").elapsed.total_seconds() < 1
                answer = slow.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408")
        assert 15 < time.monotonic() - began < 30


@pytest.mark.long
def test_a_head_that_does_not_come(server: Any) -> None:
    """The connection is closed after 10 seconds."""
    with raw(server) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nhost:")
        began = time.monotonic()
        slow.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""
        assert 8 < time.monotonic() - began < 15


@pytest.mark.long
def test_a_client_that_does_not_read(chat_run: Path, serve: Any) -> None:
    """One byte a second: it holds no slot longer than the answer takes, and its connection is cut after 30 seconds."""
    with serve(chat_run) as server:
        body = long_body(server, stream=True, n=16, logprobs=True, top_logprobs=20)
        sent = json.dumps(body).encode()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        slow.connect((host, int(port)))
        with slow:
            slow.sendall(head(CHAT, len(sent)) + sent)
            began = time.monotonic()
            with server.client() as client:
                while server.figure("llmx_active_sequences") == 0:
                    assert time.monotonic() - began < 20
                while server.figure("llmx_going_requests") > 1 and time.monotonic() - began < 120:
                    slow.recv(1)
                    assert client.get("/health").elapsed.total_seconds() < 5
                    time.sleep(1)
            assert server.figure("llmx_going_requests") == 1
            server.wait_idle(5)
