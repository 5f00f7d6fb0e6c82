"""`response_format`: whatever the model would say, the answer is JSON of the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ASKED: Any = [{"role": "user", "content": "Who is Bo?"}]
PERSON: Any = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["human", "machine"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "known": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
    },
    "required": ["kind", "age", "known", "tags"],
    "additionalProperties": False,
}


def ask(client: Any, schema: Any, **more: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    body = {"messages": ASKED, "response_format": form, "max_tokens": 300, **more}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_keeps_to_its_schema(client: Any, seed: int) -> None:
    """With a model that was never taught JSON, drawn hot; it ends by itself when the JSON is whole."""
    choice = ask(client, PERSON, temperature=1.5, seed=seed).json()["choices"][0]
    found = json.loads(choice["message"]["content"])
    assert choice["finish_reason"] == "stop"
    assert found.keys() == PERSON["properties"].keys()
    assert found["kind"] in ("human", "machine")
    assert type(found["age"]) is int
    assert 0 <= found["age"] <= 150
    assert type(found["known"]) is bool
    assert len(found["tags"]) <= 3
    assert all(len(tag) <= 6 for tag in found["tags"])


def test_without_a_schema_it_is_another_text(client: Any) -> None:
    """So that the tests above do show something."""
    body = {"messages": ASKED, "temperature": 0}
    text = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_requests_with_and_without_a_schema_side_by_side(client: Any) -> None:
    """Each keeps to its own, in one batch; those without one answer as ever."""
    import concurrent.futures

    def either(number: int) -> str:
        body: dict[str, Any] = {"messages": ASKED, "temperature": 0, "max_tokens": 100}
        if number % 2:
            schema = {"enum": ["x" * 20, number]} if number % 4 == 1 else {"type": "boolean"}
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
        done = client.post("/v1/chat/completions", json=body).json()
        return str(done["choices"][0]["message"]["content"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(either, range(8)))
    assert texts[::2] == ["I am Bo. 我是Bo。"] * 4
    assert all(json.loads(texts[n]) in ("x" * 20, n) for n in (1, 5))
    assert all(json.loads(texts[n]) in (True, False) for n in (3, 7))


def test_json_objects_and_streams(client: Any) -> None:
    """`json_object` gives an object; a stream of it is put together to the same."""
    body = {"messages": ASKED, "response_format": {"type": "json_object"}, "seed": 1, "max_tokens": 600}
    bias = {"logit_bias": {}, "temperature": 1}
    done = client.post("/v1/chat/completions", json={**body, **bias}).json()["choices"][0]
    text = done["message"]["content"]
    assert text.startswith("{")
    if done["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    lines = client.post("/v1/chat/completions", json={**body, **bias, "stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


def test_a_schema_that_cannot_be_kept_to(client: Any) -> None:
    """400 with one line, not an answer that breaks it."""
    response = ask(client, {"type": "no such type"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"] == 'response_format: cannot be kept to: Unsupported type "no such type"'
    assert (error["param"], error["code"]) == ("response_format", "invalid_value")
    big = {"type": "object", "properties": {str(n): {"type": "integer"} for n in range(600)}}
    assert "512 are the most" in ask(client, big).json()["error"]["message"]
    for long in ({"patternProperties": {"^a{600}$": {}}}, {"maxLength": 10**6, "minLength": -(10**6)}):
        assert "512 together" in ask(client, long).json()["error"]["message"]


UNKEPT: list[tuple[Any, str]] = [
    ({"allOf": [PERSON, PERSON]}, "allOf"),
    ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "properties.a.not"),
    ({"if": {}, "then": {}}, "if"),
    ({"anyOf": [{"type": "integer", "multipleOf": 5}]}, "anyOf.0.multipleOf"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "string", "pattern": "a+", "maxLength": 2}, "pattern"),
    ({"$ref": "http://127.0.0.1/x"}, "$ref"),
]


@pytest.mark.parametrize(("schema", "path"), UNKEPT)
def test_what_a_grammar_would_leave_out_is_refused(client: Any, schema: Any, path: str) -> None:
    """By its path; names of properties and values that are data are no keywords."""
    error = ask(client, schema).json()["error"]
    assert (error["param"], error["code"]) == (f"response_format.json_schema.schema.{path}", "unsupported_value")
    names = {"type": "object", "properties": {"not": {"enum": [{"if": 1}], "default": {"not": 1}}}}
    assert ask(client, names, max_tokens=1).status_code == 200


def test_without_xgrammar_it_says_what_to_install(chat_run: Path, serve: Any, tmp_path: Path) -> None:
    """In the words of the request, not of a plugin's module."""
    (tmp_path / "xgrammar.py").write_text("raise ModuleNotFoundError('no xgrammar', name='xgrammar')")
    with serve(chat_run, PYTHONPATH=str(tmp_path)) as server, server.client() as client:
        error = ask(client, PERSON).json()["error"]
    assert error["message"].startswith("response_format: the server needs")
    assert error["message"].endswith("pip install 'llmx[xgrammar]'")
    assert (error["param"], error["code"]) == ("response_format", "not_installed")


def test_a_prompt_too_long_says_what_fills_it(client: Any) -> None:
    """The system's message and the tools are counted; the code is OpenAI's."""
    messages = [{"role": "system", "content": "B" * 1100}, *ASKED]
    error = client.post("/v1/chat/completions", json={"messages": messages}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].endswith("shorten it; its system message takes 1100")
    tool = {"type": "function", "function": {"name": "f", "description": "B" * 1100, "parameters": {"type": "object"}}}
    error = client.post("/v1/chat/completions", json={"messages": ASKED, "tools": [tool]}).json()["error"]
    assert int(error["message"].rpartition("its tools take ")[2]) > 1100
