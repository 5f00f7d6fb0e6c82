"""Requests of every kind, and streams that nobody reads to their end: no 5xx, no hang, nothing left behind."""

from __future__ import annotations

import concurrent.futures
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HOSTILE = ["", "\x00", "𝔘𝔫𝔦", "<|im_end|>", "{{ 7*7 }}", "a" * 2000, "\u202e", "true", "-1", "../../etc/passwd"]
TEXTS = st.text(max_size=20) | st.sampled_from(HOSTILE)
NUMBERS = (
    st.integers(-3, 5) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([2**63])
)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
ROLES = st.sampled_from(["user", "system", "assistant", "tool", "developer", "king", ""])
CALLS = st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS})}))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": TEXTS | JUNK}, optional={"tool_calls": CALLS | JUNK, "reasoning_content": JUNK}
    ),
    max_size=4,
)
SCHEMAS = st.sampled_from([{"type": "string"}, {"enum": [1]}, {"$ref": "#"}, {"type": "object"}, {"not": {}}]) | JUNK
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXTS, "parameters": JUNK})}
    ),
    max_size=2,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["chats", "plain", "none", None]),
    "n": st.integers(1, 3),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 400),
    "min_p": st.floats(0, 1),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(1, 3),
    "logit_bias": st.dictionaries(st.integers(-1, 400).map(str), st.floats(-100, 100), max_size=5),
    "stop": TEXTS | st.lists(TEXTS, max_size=5),
    "seed": st.integers(-5, 2**64),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "logprobs": st.booleans() | st.integers(0, 21),
    "top_logprobs": st.integers(0, 21),
    "echo": st.booleans(),
    "tools": TOOLS,
    "tool_choice": st.sampled_from(["none", "auto", "required"]),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "xml"])},
        optional={"json_schema": st.fixed_dictionaries({"schema": SCHEMAS})},
    ),
    "messages": MESSAGES,
    "prompt": TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(-1, 400), max_size=5) | JUNK,
    "tokens": st.lists(st.integers(-1, 400), max_size=5) | JUNK,
}


SAFE = ("n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
RIGHT = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(1, 3),
        "messages": st.just([{"role": "user", "content": "Hi"}]),
        "prompt": st.just("Hi"),
        "stream": st.booleans(),
    },
    optional={name: FIELDS[name] for name in SAFE},
)
"""Bodies that are answered."""
NEAR = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 3), "messages": MESSAGES | st.just([{"role": "user", "content": "Hi"}])},
    optional={name: each for name, each in FIELDS.items() if name != "messages"},
)
"""Bodies of the right types."""
FAR = st.fixed_dictionaries({"max_tokens": st.integers(1, 3)}, optional={n: each | JUNK for n, each in FIELDS.items()})
"""Bodies with fields that are anything."""
BODIES = st.one_of(RIGHT, RIGHT, NEAR, FAR)


RAW = st.binary(max_size=50) | JUNK.map(lambda value: json.dumps(value).encode())
PATHS = st.sampled_from(["/v1/chat/completions"] * 6 + ["/v1/completions"] * 4 + ["/tokenize", "/detokenize"])
PLAIN = st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
OTHER_PATHS = st.sampled_from(["/", "/page/x", "/v1/models", "/v1/models/%00", "/health", "/metrics", "/%2e%2e/", "//"])


def report(text: str) -> None:
    """Print a figure; `pytest -s` shows it."""
    sys.stdout.write(text + "\n")


def fuzz(server: Any, count: int) -> Counter[str]:
    """Send `count` requests, and return how often each status came, with the longest time in `worst`."""
    seen: Counter[str] = Counter()
    worst = 0.0

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.tuples(PATHS, BODIES)
        | st.tuples(PATHS, BODIES)
        | st.tuples(PATHS, RAW)
        | st.tuples(PLAIN, OTHER_PATHS | PATHS)
    )
    def send(asked: tuple[str, Any]) -> None:
        nonlocal worst
        first, second = asked
        began = time.monotonic()
        if first.isupper():
            response = client.request(first, second)
        elif isinstance(second, bytes):
            response = client.post(first, content=second)
        else:
            response = client.post(first, content=json.dumps(second).encode())
        worst = max(worst, time.monotonic() - began)
        seen[str(response.status_code)] += 1
        assert response.status_code < 500, response.text
        if response.status_code >= 400 and first != "HEAD":
            assert response.json()["error"]["message"]
        elif response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n")
            seen["stream"] += 1

    began_s = time.monotonic()
    with server.client() as client:
        send()
    report(f"statuses {dict(seen)}; {time.monotonic() - began_s:.0f} s, the longest took {worst:.2f} s")
    assert worst < 30
    return seen


def cancel(server: Any, count: int) -> None:
    """Begin `count` streams, eight at a time, and leave each after some lines."""

    def one(number: int) -> None:
        chance = random.Random(number)
        messages = [{"role": "user", "content": f"Who is {number}?"}]
        body = {
            "messages": messages,
            "stream": True,
            "max_tokens": 450,
            "n": chance.choice([1, 1, 4]),
            "temperature": 2,
        }
        with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code in (200, 429), response.read()
            most = chance.randrange(12)
            for place, _ in enumerate(response.iter_lines()):
                if place >= most:
                    break

    began_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(count)))
    server.wait_idle(10)
    report(f"{count} streams: {time.monotonic() - began_s:.0f} s")


def held(server: Any) -> tuple[float, int]:
    """Return the server's memory in MiB, and its open files."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    kib = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    return kib / 1024, len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def proof(server: Any, requests: int, streams: int) -> None:
    """Fuzz and cancel, and see that all that was taken is given back."""
    fuzz(server, max(50, requests // 10))  # what is made once and kept: chains, threads, caches
    cancel(server, max(10, streams // 10))
    mib, files = held(server)
    seen = fuzz(server, requests)
    cancel(server, streams)
    time.sleep(1)
    later_mib, later_files = held(server)
    report(
        f"{requests} requests and {streams} streams: {later_mib - mib:+.1f} MiB, {later_files - files:+d} open files"
    )
    assert seen["200"] > requests // 20
    assert seen["400"] > requests // 5
    assert seen["stream"] > requests // 100
    assert later_mib - mib < 100
    assert later_files - files <= 8
    assert "Traceback" not in server.log.read_text()
    assert server.figure("llmx_going_requests") == 1  # the one that asks
    with server.client() as client:
        asked = {"messages": [{"role": "user", "content": "Who is Bo?"}], "temperature": 0}
        done = client.post("/v1/chat/completions", json=asked).json()
    assert done["choices"][0]["message"]["content"] == "I am Bo. 我是Bo。"


@pytest.fixture
def apart(chat_run: Path, plain_run: Path, serve: Any) -> Any:
    """A server for one test alone."""
    with serve(chat_run, "--model", f"plain={plain_run}") as server:
        yield server


def test_fuzzed_requests_and_cancelled_streams(apart: Any) -> None:
    """A short one for every day."""
    proof(apart, 300, 50)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_fuzzed_requests_and_cancelled_streams(apart: Any) -> None:
    """Ten thousand requests and a thousand streams."""
    proof(apart, 10_000, 1000)
