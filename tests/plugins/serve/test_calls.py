"""`tool_choice` that forces a call: the answer is one, with arguments of the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from llmx.speech import Said
from llmx_serve.calls import CallSpeech

ASKED: Any = [{"role": "user", "content": "Who is Bo?"}]


def tool(name: str, parameters: Any = None) -> Any:
    function = {"name": name, "description": "d", "parameters": parameters}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


SHADE = {"enum": ["red", "green"]}
PAINT = tool(
    "paint",
    {
        "type": "object",
        "properties": {"shade": {"$ref": "#/$defs/shade"}, "coats": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["shade", "coats"],
        "additionalProperties": False,
        "$defs": {"shade": SHADE},
    },
)
WAIT = tool("wait.a-bit")
NAMED: Any = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[openai.OpenAI]:
    """The client as a user makes it."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as api:
        yield api


def check(name: str, written: str) -> None:
    found = json.loads(written)
    if name == "paint":
        assert found.keys() == {"shade", "coats"}
        assert found["shade"] in SHADE["enum"]
        assert 1 <= found["coats"] <= 9
    else:
        assert (name, found) == ("wait.a-bit", {})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("choice", "reason"), [(NAMED, "stop"), ("required", "tool_calls")])
def test_a_call_is_forced(api: openai.OpenAI, choice: Any, reason: str, seed: int) -> None:
    """Of the function that is named, or of any of the tools; whole and streamed the same, with OpenAI's reasons."""
    body: Any = {"model": "chats", "messages": ASKED, "tools": [PAINT, WAIT], "tool_choice": choice, "seed": seed}
    body |= {"temperature": 1.5, "max_tokens": 100}
    done = api.chat.completions.create(**body).choices[0]
    assert done.finish_reason == reason
    assert done.message.content is None
    (call,) = done.message.tool_calls or ()
    assert call.type == "function"
    assert choice == "required" or call.function.name == "paint"
    check(call.function.name, call.function.arguments)

    chunks = list(api.chat.completions.create(**body, stream=True))
    deltas = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or ()]
    assert {each.index for each in deltas} == {0}
    assert [bool(each.id) for each in deltas] == [True] + [False] * (len(deltas) - 1)
    functions = [each.function for each in deltas if each.function]
    assert functions[0].name == call.function.name
    assert "".join(each.arguments or "" for each in functions) == call.function.arguments
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == reason
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_required_calls_any_tool(api: openai.OpenAI) -> None:
    """A model that knows neither draws both in the end."""
    body: Any = {"model": "chats", "messages": ASKED, "tools": [PAINT, WAIT], "tool_choice": "required", "n": 8}
    found = set()
    for seed in range(5):
        done = api.chat.completions.create(**body, seed=seed, temperature=2, max_tokens=100)
        found |= {call.function.name for choice in done.choices for call in choice.message.tool_calls or ()}
    assert found == {"paint", "wait.a-bit"}


def allowed(mode: Any, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_told_and_called(api: openai.OpenAI) -> None:
    """The prompt is that of a request with those tools alone, and what is required is one of them."""
    body: Any = {"model": "chats", "messages": ASKED, "max_tokens": 100, "temperature": 2}
    both: Any = {**body, "tools": [PAINT, WAIT]}
    for seed in range(4):
        done = api.chat.completions.create(**both, tool_choice=allowed("required", "paint"), seed=seed).choices[0]
        assert [call.function.name for call in done.message.tool_calls or ()] == ["paint"]
    few: Any = {"max_tokens": 3, "temperature": 0}
    told = api.chat.completions.create(**{**both, **few}, tool_choice=allowed("auto", "wait.a-bit"))
    alone = api.chat.completions.create(**{**body, **few}, tools=[WAIT])
    assert told.usage.prompt_tokens == alone.usage.prompt_tokens
    assert told.choices[0].message == alone.choices[0].message


def test_a_forced_call_is_taken_back(api: openai.OpenAI) -> None:
    """What was told as a call is a turn of the next request."""
    first = api.chat.completions.create(model="chats", messages=ASKED, tools=[PAINT], tool_choice=NAMED).choices[0]
    call = (first.message.tool_calls or [])[0]
    turns = [*ASKED, first.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    again = api.chat.completions.create(model="chats", messages=turns, tools=[PAINT], tool_choice="auto", max_tokens=3)
    assert again.choices[0].message.content is not None


@pytest.mark.parametrize("choice", [NAMED, "required"])
def test_a_call_that_is_cut_off_says_so(api: openai.OpenAI, choice: Any) -> None:
    """The reason is the budget or a stop string, and nothing of what was said is lost."""
    body: Any = {"model": "chats", "messages": ASKED, "tools": [PAINT], "tool_choice": choice, "seed": 1}
    whole = api.chat.completions.create(**body).choices[0].message.tool_calls or ()
    assert api.chat.completions.create(**body, max_tokens=4).choices[0].finish_reason == "length"
    few = 12 if choice == NAMED else 40
    for more, reason in (({"stop": ["coats"]}, "stop"), ({"max_tokens": few}, "length")):
        done = api.chat.completions.create(**body, **more).choices[0]
        (call,) = done.message.tool_calls or ()
        assert done.finish_reason == reason
        assert whole[0].function.arguments.startswith(call.function.arguments)
        if reason == "stop":
            assert whole[0].function.arguments.startswith(call.function.arguments + "coats")


def test_a_prompt_is_tokenized_as_it_is_asked(client: Any) -> None:
    """With the tools that `tool_choice` leaves."""
    for choice in ("none", "auto", allowed("auto", "paint")):
        body = {"messages": ASKED, "tools": [PAINT, WAIT], "tool_choice": choice, "max_tokens": 1}
        usage = client.post("/v1/chat/completions", json=body).json()["usage"]
        assert client.post("/tokenize", json=body).json()["count"] == usage["prompt_tokens"]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"tool_choice": "always", "tools": [PAINT]}, "tool_choice", "must be none, auto, required or a function"),
    ({"tool_choice": {"type": "custom"}, "tools": [PAINT]}, "tool_choice", "must be none, auto, required"),
    ({"tool_choice": {"type": "function"}, "tools": [PAINT]}, "tool_choice.function", "must be an object"),
    ({"tool_choice": NAMED, "tools": [WAIT]}, "tool_choice.function.name", "must be one of tools, not 'paint'"),
    ({"tool_choice": allowed("auto", "paint"), "tools": [WAIT]},
     "tool_choice.allowed_tools.tools.0.function.name", "must be one of tools, not 'paint'"),
    ({"tool_choice": allowed("any"), "tools": [WAIT]}, "tool_choice.allowed_tools.mode", "must be one of auto, requi"),
    ({"tool_choice": allowed(None), "tools": [WAIT]}, "tool_choice.allowed_tools.mode", "is required"),
    ({"tool_choice": allowed("required"), "tools": [WAIT]}, "tool_choice", "needs tools"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "must be an object"),
    ({"tools": [WAIT, PAINT, WAIT]}, "tools.2.function.name", "'wait.a-bit' is another tool's already"),
    ({"functions": [{}]}, "functions", "is not known any more: use tools"),
    ({"modalities": ["text", "audio"]}, "modalities", "must be text alone"),
    ({"max_tokens": -7, "max_completion_tokens": 5}, "max_tokens", "must be from 1"),
    ({"tool_choice": "required", "tools": [tool("x", {"type": "object", "not": {"required": ["a"]}})]},
     "tools.0.function.parameters.not", "cannot be kept to"),
    ({"tool_choice": "required", "tools": [WAIT, tool("x", {"type": "array"})]},
     "tools.1.function.parameters.type", "must be object"),
    ({"tool_choice": "required", "tools": [tool("x", {"type": "object", "properties": {"a": {"type": "no"}}})]},
     "tool_choice", "cannot be kept to"),
    ({"tool_choice": "required", "tools": [tool("x", {"type": "object", "minProperties": 9999})]},
     "tools", "512 together"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "param", "text"), REFUSED)
def test_what_cannot_be_forced_is_told(client: Any, more: dict[str, Any], param: str, text: str) -> None:
    """400, with the field and what to do."""
    response = client.post("/v1/chat/completions", json={"messages": ASKED, **more})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert text in error["message"]


def test_without_xgrammar_it_says_what_to_install(chat_run: Path, serve: Any, tmp_path: Path) -> None:
    """Calls that nobody forces need nothing."""
    (tmp_path / "xgrammar.py").write_text("raise ModuleNotFoundError('no xgrammar', name='xgrammar')")
    body = {"messages": ASKED, "tools": [PAINT], "max_tokens": 2}
    with serve(chat_run, PYTHONPATH=str(tmp_path)) as server, server.client() as client:
        error = client.post("/v1/chat/completions", json={**body, "tool_choice": "required"}).json()["error"]
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert error["message"].startswith("tool_choice: the server needs")
    assert error["message"].endswith("pip install 'llmx[xgrammar]'")
    assert (error["param"], error["code"]) == ("tool_choice", "not_installed")


def test_langchain_s_structured_output(server: Any) -> None:
    """By calls of functions, which force one: an object of the class that was given."""
    from langchain_openai import ChatOpenAI

    class Paint(BaseModel):
        """A coat of paint."""

        shade: Literal["red", "green"]
        coats: int = Field(ge=1, le=9)

    chat = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="chats", max_retries=0)  # type: ignore[arg-type]
    found = chat.with_structured_output(Paint, method="function_calling").invoke("Who is Bo?")
    assert isinstance(found, Paint)
    called = chat.bind_tools([PAINT, WAIT], tool_choice="required").invoke("Who is Bo?")
    (call,) = called.tool_calls
    check(call["name"], json.dumps(call["args"]))


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_a_call_is_told_while_it_comes(size: int) -> None:
    """Wherever its text is cut: the name once, then arguments without what stands around them."""
    arguments = '{"a": "}"}'
    for named, text in (("f", arguments), (None, f'{{"name": "f", "arguments": {arguments}}}')):
        speech = CallSpeech(named)
        said = [each for at in range(0, len(text), size) for each in speech.feed(text[at : at + size])]
        said += speech.finish()
        assert said[0] == Said("call", "", "f")
        assert {each.kind for each in said[1:]} == {"arguments"}
        assert "".join(each.text for each in said) == arguments
        assert CallSpeech(named).feed("") == []
