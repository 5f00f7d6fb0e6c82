"""A server on the loopback that speaks the OpenAI protocol and does what a test tells it, and the command that asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmx.cli import cli

Compare = Callable[..., dict[str, Any]]
Answering = Callable[[dict[str, Any], int], Any]
"""Called with a request's body and its number; returns a text, or (status, headers, body)."""


class Served:
    """A running server.

    Attributes:
        answer: what it says; a tuple of status, headers and body is sent as it is.
        asked: the bodies of the requests so far.
        keys: the Authorization headers of all requests.
    """

    def __init__(self) -> None:
        self.answer: Answering = lambda body, _: "echo " + body["messages"][-1]["content"]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.names = ["tiny-model"]
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def table(self, **values: Any) -> str:
        """Return its table in models.toml."""
        given = {"url": self.url, **values}
        return "\n".join(["[[model]]", *(f"{name} = {json.dumps(each)}" for name, each in given.items())])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                served.keys.append(self.headers["Authorization"])
                self.whole(200, {}, {"data": [{"id": name} for name in served.names]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.asked.append(body)
                    number = len(served.asked)
                served.keys.append(self.headers["Authorization"])
                said = served.answer(body, number)
                if isinstance(said, tuple):
                    self.whole(*said)
                elif body.get("stream"):
                    self.stream(said)
                else:
                    message = {"role": "assistant", "content": said}
                    usage = {"completion_tokens": len(said.split())}
                    self.whole(200, {}, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

            def whole(self, status: int, headers: dict[str, str], body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def stream(self, said: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.end_headers()
                deltas: list[dict[str, Any]] = [{"role": "assistant"}, *({"content": each} for each in said)]
                for delta in deltas:
                    self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.event({"choices": [], "usage": {"completion_tokens": len(said.split())}})
                self.wfile.write(b"data: [DONE]\n\n")

            def event(self, value: Any) -> None:
                self.wfile.write(f": ping\n\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode())
                self.wfile.flush()

        return Handler


@pytest.fixture
def served() -> Iterator[Served]:
    """A server of one test."""
    server = Served()
    yield server
    server.close()


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Write the two files, run the command in this process, and return its figures with what it said on stderr."""

    def run(models: str, questions: Any = 4, *flags: str) -> dict[str, Any]:
        if isinstance(questions, int):
            questions = [{"question": f"number {at}", "expect": {"contains": str(at)}} for at in range(questions)]
        (tmp_path / "m.toml").write_text(models)
        (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
        files = [str(tmp_path / "m.toml"), str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out")]
        capsys.readouterr()
        code = cli.main(["compare", *files, "--json", *flags], standalone_mode=False)
        done = capsys.readouterr()
        return {**json.loads(done.out), "said": done.err, "exit_code": code or 0}

    return run
