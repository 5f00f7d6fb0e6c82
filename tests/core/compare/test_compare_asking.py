"""Asking: URLs that fail in every way, the judge, and a comparison that was killed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmx.compare import openai
from llmx.compare.judge import filled, score_of
from llmx.compare.questions import question_of
from llmx.errors import LlmxError, RecipeError

Compare = Callable[..., dict[str, Any]]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of answers.jsonl."""
    return [json.loads(line) for line in (folder / "out" / "answers.jsonl").read_text().splitlines()]


def model(url: str, **values: Any) -> str:
    """Return the table of a model."""
    return "\n".join(
        ["[[model]]", f'url = "{url}"', *(f"{name} = {json.dumps(each)}" for name, each in values.items())]
    )


def test_what_a_url_is_asked(served: Any, compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields of the protocol, a seed for each repeat, the key as a bearer token and in no file; figures hold."""
    monkeypatch.setenv("THE_KEY", "sk-verysecret")
    served.answer = lambda body, _: (time.sleep(0.02), "echo 思 " + body["messages"][-1]["content"])[1]
    generate = '[generate]\ntemperature = 0.5\ntop_p = 0.9\nmax_new_tokens = 9\nseed = 7\nsystem = "Be short."\n'
    found = compare(
        generate + model(served.url, api_key_env="THE_KEY", extra={}).replace("extra = {}", ""), 4, "--repeats", "2"
    )
    assert {key for key in served.keys if key} == {"Bearer sk-verysecret"}
    assert all(key is not None for key in served.keys)
    assert [body["seed"] for body in served.asked] == [7] * 4 + [8] * 4
    assert served.asked[0] == {
        "model": "tiny-model", "max_tokens": 9, "seed": 7, "temperature": 0.5, "top_p": 0.9, "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "number 0"}],
    }  # fmt: skip
    for path in (tmp_path / "out").iterdir():
        assert "verysecret" not in path.read_text(), path
    (figures,) = found["models"]
    assert (figures["answers"], figures["errors"], figures["tokens_median"]) == (8, 0, 4)
    assert 0.02 <= figures["first_s_median"] <= figures["total_s_median"] < 1
    assert figures["scores"]["rules"]["mean"] == 1
    assert (figures["equal"], figures["alike"]) == (1, 1)
    assert rows(tmp_path)[0]["text"] == "echo 思 number 0"


def test_in_one_piece_and_as_text(served: Any, compare: Compare) -> None:
    """Without a stream there is no first text; `mode = "text"` continues a prompt; further fields are sent."""
    served.answer = lambda body, _: (200, {}, {"choices": [{"text": body["prompt"] + "!", "finish_reason": "length"}]})
    found = compare(model(served.url, mode="text", stream=False, extra=1).replace("extra = 1", "extra = {a = [1]}"))
    assert served.asked[0] == {"model": "tiny-model", "max_tokens": 256, "seed": 0, "prompt": "number 0", "a": [1]}
    (figures,) = found["models"]
    assert figures["first_s_median"] is None
    assert figures["tokens_per_s"] is None  # it said nothing of tokens
    assert figures["chars_per_s"] > 0
    assert figures["cut_off"] == 4


def test_busy_servers_are_asked_again(served: Any, compare: Compare, tmp_path: Path) -> None:
    """429 and 503 after their Retry-After; what is measured is the try that was answered."""
    served.answer = lambda _, number: (
        [(429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}), (503, {}, b"<html>")][number - 1]
        if number < 3
        else "echo number 0"
    )
    began = time.monotonic()
    found = compare(model(served.url), 1)
    assert time.monotonic() - began > 1 + 1
    assert found["models"][0]["errors"] == 0
    (row,) = rows(tmp_path)
    assert row["tries"] == 3
    assert row["total_s"] < 0.9


FAULTS: list[tuple[Any, str]] = [
    ((400, {}, {"error": {"message": "bad\nfield"}}), "HTTP 400: bad field"),
    ((404, {}, b"nothing here"), "HTTP 404: nothing here"),
    ((200, {}, b"[1]"), "broke off: is no JSON object: '[1]'"),
    ((200, {}, b"\xff\xfe{"), "broke off: is no JSON object"),
    ((200, {}, {"choices": []}), "answered with no choices: is it an OpenAI API?"),
    ((200, {}, {"error": {"message": "out of memory"}}), "out of memory"),
    ((200, {"Content-Type": "text/event-stream"}, b'data: {"error": {"message": "boom"}}\n\n'), "boom"),
    ((200, {"Content-Type": "text/event-stream"}, b'data: {"choices": []}\n\n'), "the stream ended before the answer"),
    ((200, {"Content-Type": "text/event-stream"}, b"data: nonsense\n\n"), "broke off: is no JSON object: 'nonsense'"),
    ((200, {"Content-Length": "100"}, b'{"cho'), "broke off: IncompleteRead"),
    ((302, {"Location": "http://127.0.0.1:9/"}, b""), "HTTP 302"),
    ((401, {}, {"error": {"message": "bad key sk-verysecret"}}), "HTTP 401: bad key ***"),
]


@pytest.mark.parametrize(("said", "told"), FAULTS, ids=[told[:28] for _, told in FAULTS])
def test_an_answer_that_is_none(
    said: Any, told: str, served: Any, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told in one line with the question, counted, and asked again by the next call; others go on."""
    monkeypatch.setenv("THE_KEY", "sk-verysecret")
    monkeypatch.setattr(openai, "LONGEST_WAIT_S", 0.0)
    served.answer = lambda body, _: said if body["messages"][-1]["content"] == "number 1" else "number 0 2"
    found = compare(model(served.url, api_key_env="THE_KEY"), 3)
    assert (found["models"][0]["answers"], found["models"][0]["errors"], found["exit_code"]) == (2, 1, 0)
    assert ": 2 answers, 1 error\n" in found["said"]
    (line,) = [line for line in found["said"].splitlines() if "question 2" in line]
    assert told in line
    assert "verysecret" not in line
    asked = len(served.asked)
    served.answer = lambda *_: "number 1"
    found = compare(model(served.url, api_key_env="THE_KEY"), 3)
    assert len(served.asked) == asked + 1
    assert (found["models"][0]["answers"], found["models"][0]["errors"]) == (3, 0)


def test_words_that_a_server_does_not_know(served: Any, compare: Compare) -> None:
    """One that refuses stream_options or max_tokens by name is asked in its own words."""

    def answer(body: dict[str, Any], _: int) -> Any:
        if "stream_options" in body:
            return 400, {}, {"error": {"message": "unknown field stream_options"}}
        if "max_tokens" in body:
            return 400, {}, {"error": {"message": "use 'max_completion_tokens' instead of 'max_tokens'"}}
        return "number 0"

    served.answer = answer
    assert compare(model(served.url), 1)["models"][0]["answers"] == 1
    assert served.asked[-1]["max_completion_tokens"] == 256


def test_a_server_that_drips_is_left(compare: Compare) -> None:
    """One byte now and then: the answer ends at the time that it may take, whatever still comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"
        with connection:
            listed = connection.recv(65_536).startswith(b"GET")
            try:
                connection.sendall(head % (b"application/json" if listed else b"text/event-stream"))
                for _ in range(200 * (not listed)):
                    connection.sendall(b":")
                    time.sleep(0.05)
                connection.sendall(b'{"data": [{"id": "m"}]}')
            except OSError:
                return  # the other end left

    threading.Thread(target=serve, daemon=True).start()
    began = time.monotonic()
    found = compare(f"[generate]\ntimeout_s = 0.3\n{model(url)}", 1)
    listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
    listener.close()
    assert "broke off: took longer than 0.3 s" in found["said"]
    assert time.monotonic() - began < 4 * 0.4 + 1 + 2 + 0.5 + 4


def test_a_server_that_is_gone_is_asked_no_more(served: Any, compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five errors in a row a model is left, with a line and exit code 1; the next one is asked."""
    monkeypatch.setattr(openai, "LONGEST_WAIT_S", 0.0)
    served.answer = lambda body, _: (404, {}, b"") if body["model"] == "bad" else "number 1"
    models = model(served.url, model="bad") + "\n" + model(served.url, model="good")
    found = compare(models, 20)
    assert found["exit_code"] == 1
    assert "bad: 0 answers, 5 errors\nllmx: good: 20 answers\n" in found["said"]
    assert "bad: 5 errors in a row: it is asked no more; the same command goes on later" in found["said"]
    assert [(each["answers"], each["errors"], each["asked"]) for each in found["models"]] == [(0, 5, 20), (20, 0, 20)]


@pytest.mark.parametrize("who", ["model", "judge"])
def test_a_url_that_is_not_there_is_told_before_anything(
    who: str, served: Any, compare: Compare, tmp_path: Path
) -> None:
    """One line, nothing asked of the others, nothing written."""
    gone = "http://127.0.0.1:9/v1"
    models = model(served.url) + (f'\n[judge]\nurl = "{gone}"' if who == "judge" else "\n" + model(gone, name="gone"))
    with pytest.raises(LlmxError, match=rf"{who}.*: {gone}: cannot be reached: .*refused"):
        compare(models)
    assert served.asked == []
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_keys_and_folders_are_looked_for_first(served: Any, compare: Compare, tmp_path: Path) -> None:
    """All that is missing in one go; a folder of something else is not written to."""
    models = model(served.url, api_key_env="NOT_SET") + '\n[[model]]\npath = "no/such"\n'
    with pytest.raises(RecipeError) as told:
        compare(models)
    assert str(told.value).splitlines() == [
        f"model {served.url.split('/')[2]}: api_key_env: the variable NOT_SET is not set: export it",
        "model such: no/such: no such folder: give a run folder or a model folder",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RecipeError, match=r"holds no config\.json: give a run folder(.|\n)*adapter no/such: no such folder"
    ):
        compare(model(served.url) + f'\n[[model]]\npath = "{tmp_path / "empty"}"\nadapter = "no/such"\n')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="exists and holds no comparison: give another --out"):
        compare(model(served.url))
    assert served.asked == []


# --- the judge ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Score: 4", 4),
        ("It is good.\n\nscore:5\n", 5),
        ("**Score: 3**", 3),
        ("**Score:** 2", 2),
        (" 1 ", 1),
        ("<think>Score: 1</think>\nScore: 2", 2),
        ("Score: 6", None),
        ("Score: 0", None),
        ("Score: 4.5", None),
        ("Score: 4/5", None),
        ("Score: 4\nthough 3 would do", None),
        ("I give it 4", None),
        ("4 of 5", None),
        ("Reasons\n4", None),
        ("", None),
        ("Score: 五", None),
        ("Score: ٤", None),
    ],
)
def test_a_score_is_read_strictly(said: str, score: int | None) -> None:
    """The last line is the score and nothing else, or all that was said is a digit."""
    assert score_of(said) == score


def test_what_is_put_into_the_judges_prompt() -> None:
    """Question, answer and reference once each; places within them are text, and a thought is no answer."""
    question, _ = question_of('{"question": "{answer} {x}", "answer": "REF {question}"}', "1")
    assert question is not None
    text = filled("Q {question} A {answer} R {reference} {other}", question, "<think>hm</think> {reference}")
    assert text == "Q {answer} {x} A {reference} R REF {question} {other}"


def test_the_judge(served: Any, compare: Compare, tmp_path: Path) -> None:
    """Equal answers are judged once, and not again by the next call; one that says no score counts as none, shown."""
    judge = type(served)()
    said = {"number 0": "Good.\nScore: 5", "number 1": "Score: 2", "number 2": "I cannot say.", "number 3": "4"}
    judge.answer = lambda body, _: next(v for k, v in said.items() if f"echo {k}" in body["messages"][0]["content"])
    try:
        models = model(served.url) + f'\n[judge]\nurl = "{judge.url}"\n'
        found = compare(models, 4, "--repeats", "3", "--concurrency", "3")
        (figures,) = found["models"]
        assert figures["scores"]["judge"] == {
            "mean": pytest.approx(11 / 3),
            "questions": 3,
            "low": None,
            "high": None,
            "missing": 3,
        }
        assert len(judge.asked) == 4
        assert "stream" not in judge.asked[0]
        assert judge.asked[0]["temperature"] == 0
        assert "judge: " in found["said"]
        assert "question 3: no score in 'I cannot say.'" in found["said"]
        compare(models, 4, "--repeats", "3")
        assert len(judge.asked) == 4
        page = (tmp_path / "out" / "compare.html").read_text()
        assert "judge: no score (I cannot say.)" in page
        judge.answer = lambda *_: (500, {}, b"")
        found = compare(models, 4, "--no-judge")
        assert "judge" not in found["models"][0]["scores"]
    finally:
        judge.close()
