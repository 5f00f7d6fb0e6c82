"""The server through the client that OpenAI publishes, and through LangChain's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

import llmx

ASKED: Any = [{"role": "user", "content": "Who is Bo?"}]
TAUGHT = "I am Bo. 我是Bo。"


@pytest.fixture(scope="module")
def api(server: Any) -> Iterator[openai.OpenAI]:
    """The client as a user makes it."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as api:
        yield api


def test_models_are_listed(api: openai.OpenAI) -> None:
    """By their names, and each by itself; one that does not exist is a 404 that names those that do."""
    assert [each.id for each in api.models.list()] == ["chats", "plain"]
    assert api.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError, match="there are: chats, plain"):
        api.chat.completions.create(model="gpt-9", messages=ASKED)


def test_a_chat_is_answered_as_it_was_taught(api: openai.OpenAI, chat_run: Path) -> None:
    """The same text as `llmx.load` gives with the run's template, with its usage."""
    done = api.chat.completions.create(model="chats", messages=ASKED, temperature=0)
    assert done.choices[0].message.content == TAUGHT
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "stop"
    model = llmx.load(chat_run, sampler=["greedy"])
    asked = model.request(model.question("Who is Bo?"))
    answer = model.new_engine().submit(asked).wait()
    assert answer.text == TAUGHT
    assert done.usage is not None
    assert done.usage.prompt_tokens == len(asked.ids)
    assert done.usage.completion_tokens == len(answer.tokens)
    assert done.usage.total_tokens == len(asked.ids) + len(answer.tokens)


def test_a_stream_is_framed_as_openai_frames_it(api: openai.OpenAI) -> None:
    """The role, then text in several pieces, then the reason, then the usage; together they are the whole answer."""
    options: Any = {"include_usage": True}
    stream = api.chat.completions.create(
        model="chats", messages=ASKED, temperature=0, stream=True, stream_options=options
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == TAUGHT
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks[:-1]) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(TAUGHT) + 1  # a token a character, and the end
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    bare = api.chat.completions.create(model="chats", messages=ASKED, max_tokens=1, stream=True)
    assert not any("usage" in chunk.model_fields_set for chunk in bare)


def test_the_raw_stream_ends_by_done(client: Any) -> None:
    """Every event is a `data:` line and a blank one; the last is [DONE]; a proxy is told not to collect it."""
    body = {"messages": ASKED, "stream": True, "temperature": 0}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        text = response.read().decode()
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_several_answers_and_seeds(api: openai.OpenAI) -> None:
    """`n` answers differ, a seed gives them again, and no seed gives others."""

    def ask(**more: Any) -> list[str | None]:
        done = api.completions.create(model="plain", prompt="Bo", n=3, max_tokens=12, temperature=1, **more)
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        assert all(choice.finish_reason == "length" for choice in done.choices)
        return [choice.text for choice in done.choices]

    seeded = ask(seed=7)
    assert len(set(seeded)) == 3
    assert ask(seed=7) == seeded
    assert ask(seed=8) != seeded
    assert ask() != ask()


def test_choices_are_streamed_side_by_side(api: openai.OpenAI) -> None:
    """Each chunk says whose it is, and each choice ends by a reason."""
    stream = api.chat.completions.create(model="chats", messages=ASKED, n=2, temperature=0, stream=True)
    texts, reasons = ["", ""], [[], []]  # type: ignore[var-annotated]
    for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index].append(choice.finish_reason)
    assert texts == [TAUGHT, TAUGHT]
    assert [each[-1] for each in reasons] == ["stop", "stop"]


def test_stop_strings_are_never_shown(api: openai.OpenAI) -> None:
    """Neither in whole nor in part, in a stream either; and they end the answer."""
    done = api.chat.completions.create(model="chats", messages=ASKED, temperature=0, stop=[" 我是"])
    assert done.choices[0].message.content == "I am Bo."
    assert done.choices[0].finish_reason == "stop"
    stream = api.chat.completions.create(model="chats", messages=ASKED, temperature=0, stop="我是Bo", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "I am Bo. "


@pytest.mark.parametrize(
    ("stop", "text"), [("我是", "I am Bo. "), (" 我是", "I am Bo."), ("xx", TAUGHT), ("o. 我x", TAUGHT)]
)
def test_stop_strings_are_not_shown_by_log_probabilities(api: openai.OpenAI, client: Any, stop: str, text: str) -> None:
    """Those told spell the text, in a stream at no time more than it has shown."""
    asked: Any = {"model": "chats", "temperature": 0, "stop": [stop], "logprobs": True}
    done = api.chat.completions.create(messages=ASKED, **asked).choices[0]
    assert done.logprobs is not None
    assert "".join(each.token for each in done.logprobs.content or []) == done.message.content == text
    told, shown = "", ""
    for chunk in api.chat.completions.create(messages=ASKED, stream=True, **asked):
        choice = chunk.choices[0]
        shown += choice.delta.content or ""
        told += "".join(each.token for each in (choice.logprobs and choice.logprobs.content) or [])
        assert shown.startswith(told)
    assert told == shown == text
    ids = client.post("/tokenize", json={"model": "chats", "messages": ASKED}).json()["tokens"]
    asked = {
        "model": "chats",
        "prompt": ids,
        "temperature": 0,
        "stop": [stop],
        "logprobs": 0,
        "max_tokens": len(TAUGHT),
    }
    logprobs = api.completions.create(**asked).choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == text
    assert logprobs.text_offset == list(range(len(text)))
    parts = [chunk.choices[0].logprobs for chunk in api.completions.create(stream=True, **asked)]
    assert [n for part in parts if part for n in part.text_offset or []] == logprobs.text_offset


def test_completions_take_texts_lists_and_tokens(api: openai.OpenAI, client: Any) -> None:
    """A list of prompts gives a choice for each; tokens are what /tokenize says; echo puts the prompt first."""
    tokens = client.post("/tokenize", json={"model": "plain", "prompt": "Ada"}).json()["tokens"]
    alone = [api.completions.create(model="plain", prompt=p, temperature=0, max_tokens=6) for p in ("Ada", "Bo is")]
    both = api.completions.create(model="plain", prompt=["Ada", "Bo is"], temperature=0, max_tokens=6)
    assert [each.text for each in both.choices] == [each.choices[0].text for each in alone]
    from_ids = api.completions.create(model="plain", prompt=tokens, temperature=0, max_tokens=6, echo=True)
    assert from_ids.choices[0].text == "Ada" + alone[0].choices[0].text
    assert client.post("/detokenize", json={"model": "plain", "tokens": tokens}).json() == {"prompt": "Ada"}
    streamed = api.completions.create(model="plain", prompt="Ada", temperature=0, max_tokens=6, stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == from_ids.choices[0].text


def independent(folder: Path, ids: list[int]) -> torch.Tensor:
    """Return log-probabilities of what follows each token by a plain forward pass over all of them."""
    model = llmx.load(folder).model
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0].float().log_softmax(-1)


def test_log_probabilities_of_a_completion(api: openai.OpenAI, client: Any, plain_run: Path) -> None:
    """Those of one forward pass over prompt and answer, for the tokens drawn and the three likeliest."""
    ids = client.post("/tokenize", json={"model": "plain", "prompt": "Bo is"}).json()["tokens"]
    done = api.completions.create(model="plain", prompt="Bo is", max_tokens=8, logprobs=3, temperature=1, seed=3)
    told = done.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert len(told.tokens) == 8
    decode = llmx.load(plain_run).tokenizer.decode
    for number, text in enumerate(told.tokens):
        row_V = independent(plain_run, ids)[-1]
        # a character has its own token and those of its bytes: the one that was drawn is told by its probability
        spelled = [token for token in range(len(row_V)) if decode([token]) == text]
        drawn = min(spelled, key=lambda token: abs(float(row_V[token]) - told.token_logprobs[number]))
        assert told.token_logprobs[number] == pytest.approx(float(row_V[drawn]), abs=1e-4)
        best = row_V.topk(3).values.tolist()
        told_best = told.top_logprobs[number]
        if len(told_best) == 3:  # tokens of one text are one key
            assert sorted(told_best.values(), reverse=True) == pytest.approx(best, abs=1e-4)
        ids = [*ids, drawn]


def test_log_probabilities_of_a_chat(api: openai.OpenAI, client: Any, chat_run: Path) -> None:
    """Those of one forward pass; streamed they are the same; the token that ends the turn is not told."""
    ids = client.post("/tokenize", json={"model": "chats", "messages": ASKED}).json()["tokens"]
    done = api.chat.completions.create(model="chats", messages=ASKED, temperature=0, logprobs=True, top_logprobs=2)
    assert done.choices[0].logprobs is not None
    told = done.choices[0].logprobs.content
    assert told is not None
    assert "".join(each.token for each in told) == TAUGHT
    assert [each.bytes for each in told] == [list(each.encode()) for each in TAUGHT]
    tokenizer = llmx.load(chat_run).tokenizer
    drawn = tokenizer.encode(TAUGHT)
    expected_TV = independent(chat_run, [*ids, *drawn])[len(ids) - 1 :]
    for row_V, each, token in zip(expected_TV, told, drawn, strict=False):
        assert each.logprob == pytest.approx(float(row_V[token]), abs=1e-4)
        best = row_V.topk(2).values.tolist()
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(best, abs=1e-4)
    stream = api.chat.completions.create(model="chats", messages=ASKED, temperature=0, logprobs=True, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in stream if chunk.choices[0].logprobs]
    streamed = [each for part in parts for each in part.content or []]
    assert [(each.token, each.top_logprobs) for each in streamed] == [(each.token, []) for each in told]


def test_biases_and_penalties_reach_the_draws(api: openai.OpenAI, client: Any) -> None:
    """A token that is banned does not come; penalties change what comes."""
    token = client.post("/tokenize", json={"model": "chats", "prompt": "B"}).json()["tokens"][-1]
    done = api.chat.completions.create(model="chats", messages=ASKED, temperature=0, logit_bias={str(token): -100})
    assert "B" not in (done.choices[0].message.content or "B")
    plain = api.completions.create(model="plain", prompt="Bo", temperature=0, max_tokens=30).choices[0].text
    forced = api.completions.create(model="plain", prompt="Bo", temperature=0, max_tokens=30, frequency_penalty=2)
    assert len(set(forced.choices[0].text)) > len(set(plain))


def test_a_cancelled_stream_frees_its_slot(api: openai.OpenAI, server: Any) -> None:
    """At its next token: long before it would have ended."""
    stream = api.chat.completions.create(
        model="chats", messages=ASKED, stream=True, max_tokens=450, logit_bias=_never_ending(server)
    )
    next(iter(stream))
    assert server.figure("llmx_active_sequences") == 1
    before = server.figure("llmx_generated_tokens_total")
    stream.close()
    server.wait_idle(5)
    assert server.figure("llmx_generated_tokens_total") - before < 400
    assert server.figures()['llmx_answers_total{finish_reason="cancelled"}'] >= 1


def _never_ending(server: Any) -> dict[str, int]:
    """Return the bias that keeps a chat from ending."""
    with server.client() as client:
        ids = client.post("/tokenize", json={"model": "chats", "messages": ASKED}).json()["tokens"]
        return {str(token): -100 for token in {0, 1, 2, *ids[:1], *_ends(client, ids)}}


def _ends(client: Any, ids: list[int]) -> list[int]:
    spelled = {n: client.post("/detokenize", json={"model": "chats", "tokens": [n]}).json()["prompt"] for n in set(ids)}
    return [token for token, text in spelled.items() if text == ""]


def test_a_whole_answer_is_cancelled_with_its_client(api: openai.OpenAI, server: Any) -> None:
    """A client that gives up waiting frees the slot too."""
    impatient = api.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(
            model="chats", messages=ASKED, max_tokens=450, n=8, logit_bias=_never_ending(server)
        )
    began = time.monotonic()
    server.wait_idle(5)
    assert time.monotonic() - began < 2


def test_errors_are_those_of_the_client(api: openai.OpenAI) -> None:
    """Each kind of fault raises the class that OpenAI's client has for it, with the field that is wrong."""
    with pytest.raises(openai.BadRequestError, match="temperature: must be from 0 to 2") as caught:
        api.chat.completions.create(model="chats", messages=ASKED, temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="trained on plain text and has no chat template"):
        api.chat.completions.create(model="plain", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match=r"the model takes|leaves no room"):
        api.completions.create(model="plain", prompt="Bo " * 400)


def test_langchain(server: Any) -> None:
    """ChatOpenAI answers, streams, and counts."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="chats", temperature=0, max_retries=0)  # type: ignore[arg-type]
    done = chat.invoke([("system", "Be kind."), ("user", "Who is Bo?")])
    assert isinstance(done.content, str)
    assert done.content
    assert done.usage_metadata is not None
    assert done.usage_metadata["output_tokens"] > 0
    pieces = list(chat.stream("Who is Bo?"))
    assert "".join(str(each.content) for each in pieces) == TAUGHT
    assert len(pieces) > 5
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="none").invoke("Hi")  # type: ignore[arg-type]
