"""Requests that are wrong: each is refused before any work, in OpenAI's form, with the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

SAID: Any = [{"role": "user", "content": "Hi"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": SAID, "max_tokens": 1, **more}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


WRONG = [
    (CHAT, chat(n=1_000_000), "n", "must be from 1 to 16, not 1000000"),
    (CHAT, chat(n=0), "n", "must be from 1 to 16"),
    (CHAT, chat(n=True), "n", "must be an integer, not true or false"),
    (CHAT, chat(n="2"), "n", "must be an integer, not a string"),
    (CHAT, chat(max_tokens=10**12), "max_tokens", "must be from 1 to 1024"),
    (CHAT, chat(max_completion_tokens=0), "max_completion_tokens", "must be from 1"),
    (CHAT, chat(max_tokens=1.5), "max_tokens", "must be an integer, not a number"),
    (CHAT, chat(temperature="hot"), "temperature", "must be a number, not a string"),
    (CHAT, chat(temperature=-1), "temperature", "must be from 0 to 2"),
    (CHAT, chat(top_p=1.1), "top_p", "must be from 0 to 1"),
    (CHAT, chat(presence_penalty=3), "presence_penalty", "must be from -2 to 2"),
    (CHAT, chat(logit_bias={"x": 1}), "logit_bias.x", "is no token"),
    (CHAT, chat(logit_bias={"999999": 1}), "logit_bias.999999", "is no token"),
    (CHAT, chat(logit_bias={"1": 1000}), "logit_bias.1", "must be from -100 to 100"),
    (CHAT, chat(logit_bias={str(n): 1 for n in range(2000)}), "logit_bias", "1024 are the most"),
    (CHAT, chat(stop=["a"] * 17), "stop", "16 are the most"),
    (CHAT, chat(stop=["a" * 257]), "stop.0", "1 to 256 characters"),
    (CHAT, chat(stop=""), "stop", "1 to 256 characters"),
    (CHAT, chat(stop=[1]), "stop.0", "must be a string"),
    (CHAT, chat(seed=2**70), "seed", "must be"),
    (CHAT, chat(stream="yes"), "stream", "must be true or false"),
    (CHAT, chat(stream_options={}), "stream_options", "streams only"),
    (CHAT, chat(top_logprobs=3), "top_logprobs", "needs logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "must be from 0 to 20"),
    (CHAT, chat(model=3), "model", "must be a string"),
    (CHAT, {}, "messages", "at least one message"),
    (CHAT, chat(messages=[]), "messages", "at least one message"),
    (CHAT, chat(messages="Hi"), "messages", "must be a list, not a string"),
    (CHAT, chat(messages=["Hi"]), "messages.0", "must be an object"),
    (CHAT, chat(messages=SAID * 3000), "messages", "2048 are the most"),
    (CHAT, chat(messages=[{"content": "Hi"}]), "messages.0.role", "is required"),
    (CHAT, chat(messages=[{"role": "king", "content": "Hi"}]), "messages.0.role", "must be one of"),
    (CHAT, chat(messages=[{"role": "user"}]), "messages.0.content", "is required"),
    (CHAT, chat(messages=[{"role": "user", "content": {"a": 1}}]), "messages.0.content", "list of parts"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        "messages.0.content.0.type",
        "must be text",
    ),
    (
        CHAT,
        chat(messages=[*SAID, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}]),
        "messages.1.tool_calls.0.function.arguments",
        "must be a JSON object as a string",
    ),
    (CHAT, chat(messages=[{"role": "user", "content": "a" * 300_000}]), "messages", "do not fit the context"),
    (CHAT, chat(tools=[TOOL] * 129), "tools", "128 are the most"),
    (CHAT, chat(tools=[{"type": "retrieval"}]), "tools.0.type", "must be function"),
    (CHAT, chat(tools=[TOOL], tool_choice="any"), "tool_choice", "must be none, auto, required or a function"),
    (CHAT, chat(parallel_tool_calls="x"), "parallel_tool_calls", "must be true or false"),
    (CHAT, chat(response_format={"type": "xml"}), "response_format.type", "must be one of"),
    (CHAT, chat(response_format={}), "response_format.type", "is required"),
    (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"schema": {"minLength": 10**9}}}),
        "response_format.json_schema.schema",
        "lengths and counts",
    ),
    (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"schema": {"pattern": "(a{1,900}){1,900}"}}}),
        "response_format.json_schema.schema",
        "lengths and counts",
    ),
    (TEXT, {}, "prompt", "must be a string"),
    (TEXT, {"prompt": {"a": 1}}, "prompt", "not an object"),
    (TEXT, {"prompt": [1, "a"]}, "prompt", "must be a string"),
    (TEXT, {"prompt": [-1]}, "prompt", "is none: ids go from 0"),
    (TEXT, {"prompt": [10**9]}, "prompt", "is none: ids go from 0"),
    (TEXT, {"prompt": [True]}, "prompt", "must be a string"),
    (TEXT, {"prompt": [5] * 1025}, "prompt", "does not fit the context"),
    (TEXT, {"prompt": ["a"] * 17}, "prompt", "16 are the most"),
    (TEXT, {"prompt": ["a"] * 5, "n": 4}, "n", "more than 16 answers"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
    (TEXT, {"prompt": "a", "best_of": 3}, "best_of", "must be n"),
    (TEXT, {"prompt": "a", "echo": True, "logprobs": 1}, "echo", "leave echo or logprobs out"),
    ("/tokenize", {}, "prompt", "is required, or messages"),
    ("/detokenize", {"tokens": "a"}, "tokens", "must be a list"),
    ("/detokenize", {"tokens": [10**9]}, "tokens", "is none"),
    ("/detokenize", {"tokens": ["a"]}, "tokens", "must be a list of tokens"),
    ("/detokenize", {"tokens": [[1, 2]]}, "tokens", "must be a list of tokens"),
    ("/detokenize", {"tokens": [1, True]}, "tokens", "must be a list of tokens"),
    ("/detokenize", {"tokens": {}}, "tokens", "must be a list, not an object"),
    ("/detokenize", {"tokens": [1] * 1025}, "tokens", "1024 are the most"),
]


@pytest.mark.parametrize(("path", "body", "param", "message"), WRONG)
def test_what_is_wrong_is_named(client: Any, path: str, body: Any, param: str, message: str) -> None:
    """Status 400, the field as `param`, and one line that says what is allowed."""
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"messages": NaN}', "not valid JSON"),
        (b'{"prompt": "\xff\xfe"}', "not valid JSON"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b"[1]", "must be a JSON object, not a list"),
        (b'"a"', "must be a JSON object, not a string"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (json.dumps({"prompt": "a", "x": nested(70)}).encode(), "more than 64 levels deep"),
        (b'{"prompt": "a", "max_tokens": ' + b"9" * 10_000 + b"}", "JSON"),
    ],
)
def test_what_is_no_json_object(client: Any, body: bytes, message: str) -> None:
    """Broken UTF-8, lone surrogates and a nesting without end are 400 too, on every route that takes a body."""
    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        response = client.post(path, content=body)
        assert response.status_code == 400, path
        assert response.json()["error"]["message"]
    assert message in client.post(TEXT, content=body).json()["error"]["message"]


def test_a_refusal_of_an_assistant_is_what_it_said(client: Any) -> None:
    """A part of that type, as OpenAI sends it back; a user has none."""

    def tokens(role: str, part: Any) -> Any:
        return client.post("/tokenize", json={"messages": [*SAID, {"role": role, "content": [part]}, *SAID]}).json()

    refusal = {"type": "refusal", "refusal": "No."}
    assert tokens("assistant", refusal)["tokens"] == tokens("assistant", {"type": "text", "text": "No."})["tokens"]
    assert tokens("user", refusal)["error"]["param"] == "messages.1.content.0.type"


def test_unknown_fields_are_ignored_and_null_is_absent(client: Any) -> None:
    """As OpenAI's own extensions come and go."""
    known = ["temperature", "top_p", "n", "stop", "seed", "tools", "logit_bias", "stream_options", "response_format"]
    body = chat(user="me", store=True, metadata={"a": 1}, no_such={"deep": [1]}, **dict.fromkeys(known))
    assert client.post(CHAT, json=body).status_code == 200


def test_a_prompt_over_the_context_or_without_tokens(client: Any) -> None:
    """A line that says how long it is, from texts, tokens and chats alike."""
    for path, body, param in [
        (TEXT, {"model": "plain", "prompt": "a" * 1100}, "prompt"),
        (TEXT, {"model": "plain", "prompt": [5] * 1024}, "prompt"),
        (CHAT, chat(messages=[{"role": "user", "content": "a" * 1100}]), "messages"),
    ]:
        response = client.post(path, json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert "tokens long; the model" in error["message"]
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    response = client.post(TEXT, json={"model": "plain", "prompt": []})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    assert response.json()["error"]["code"] == "invalid_value"


def test_a_body_that_is_too_long(client: Any) -> None:
    """413, by its length where it is told, and while it comes where it is not."""
    long = b" " * (4 * 2**20 + 1)
    assert client.post(TEXT, content=long).status_code == 413
    assert client.post(TEXT, content=iter([long[: 2**20]] * 5)).status_code == 413


def test_other_paths_and_methods(client: Any) -> None:
    """404 and 405 in the same form."""
    for method, path, status in [("GET", "/v2", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405)]:
        response = client.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert response.json()["error"]["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/none.js", "/page/"):
        assert client.get(path).status_code == 404


def test_tools_where_the_template_has_none(client: Any, serve: Any, published: Any) -> None:
    """A template that does not write them would answer as if there were none."""
    with serve(published) as server, server.client() as other:
        assert other.get("/v1/models").json()["data"][0]["tools"] is False
        error = other.post(CHAT, json=chat(tools=[TOOL])).json()["error"]
        assert error["param"] == "tools"
        assert "has no tools" in error["message"]
    assert client.get("/v1/models").json()["data"][0]["tools"] is True
    assert client.post(CHAT, json=chat(tools=[TOOL], max_tokens=2)).status_code == 200
