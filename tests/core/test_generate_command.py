"""`llmx generate`: one prompt, a file of prompts, JSON, and what it says of input that is none."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import llmx
from llmx.cli import cli
from llmx.cli.generate import _print_text
from llmx.generate.prompt_file import read_prompts
from llmx.generate.prompts import ChatPrompt
from llmx.generate.request import Token
from llmx.protocols import Message
from llmx.terminal import printable

Generate = Callable[..., Result]


@pytest.fixture
def generate(char_run: Path) -> Generate:
    """`llmx generate` on the small run, in this process."""

    def run(*arguments: object, model: Path = char_run, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(cli, ["generate", str(model), *map(str, arguments)], input=stdin)

    return run


def fault(result: Result) -> str:
    """Return the user's error that a command ended with; what `main` prints of it has exit code 2."""
    assert isinstance(result.exception, llmx.RecipeError), (result.exception, result.output)
    assert result.exception.exit_code == 2
    return str(result.exception)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_of_prompts_is_answered_in_order(generate: Generate, char_run: Path, tmp_path: Path) -> None:
    """Every answer is what the prompt gets alone with its own stream; fields of a row stay beside it."""
    texts = [f"The {word}" for word in ("name", "class", "of", "long", "way", "a", "to", "in", "is", "on")] * 3
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "id": n}) + "\n\n" for n, text in enumerate(texts)))
    done = generate("--prompts", path, "--max-new-tokens", 9, "--seed", 5, "--out", tmp_path / "a.jsonl")
    assert done.exit_code == 0, done.output
    assert f"llmx: 30 answers in {tmp_path / 'a.jsonl'}\n" in done.stderr
    found = rows((tmp_path / "a.jsonl").read_text())
    assert [row["id"] for row in found] == list(range(30))
    model = llmx.load(char_run)
    alone = [model.request(text, max_new_tokens=9, seed=5, number=n) for n, text in enumerate(texts)]
    assert [row["text"] for row in found] == [model.new_engine().submit(each).wait().text for each in alone]
    assert {row["finish_reason"] for row in found} <= {"stop", "length"}
    (tmp_path / "p.txt").write_text("\n".join(texts) + "\n")
    again = generate("--prompts", tmp_path / "p.txt", "--max-new-tokens", 9, "--seed", 5)
    assert [row["text"] for row in rows(again.stdout)] == [row["text"] for row in found]
    assert "exists already" in fault(generate("--prompts", path, "--out", tmp_path / "a.jsonl"))


def test_a_full_context_is_told(generate: Generate, char_run: Path) -> None:
    """One line on stderr where it ended an answer before its budget; none where the budget did, and none for JSON."""
    context = llmx.load(char_run).model.context_length
    asked = ("The ", "--n", 2, "--sampler", "greedy", "--max-new-tokens")
    room = context - len(llmx.load(char_run).request("The ").ids)
    told = f"llmx: the context of {context:,} tokens is full: {room:,} of {context * 2:,} were added\n"
    assert generate(*asked, context * 2).stderr == told
    assert generate(*asked, room).stderr == ""
    assert generate(*asked, context * 2, "--json").stderr == ""


def test_several_answers_to_a_prompt(generate: Generate) -> None:
    """`--n` draws each with a stream of its own; the first is the one that is drawn alone."""
    several = rows(generate("The ", "--n", 3, "--json", "--seed", 2).stdout)
    alone = rows(generate("The ", "--json", "--seed", 2).stdout)
    assert several[0] == alone[0]
    assert len({row["text"] for row in several}) == 3
    assert generate("The ", "--n", 2, "--seed", 2).stdout == "".join(f"The {row['text']}\n" for row in several[:2])


def test_log_probabilities_are_the_models(generate: Generate, char_run: Path) -> None:
    """Each is log_softmax of the model's own logits over the whole text, and the alternatives are its best."""
    row = rows(generate("The ", "--json", "--logprobs", 2, "--max-new-tokens", 6).stdout)[0]
    model = llmx.load(char_run)
    prompt = list(model.request("The ").ids)
    ids = [each["id"] for each in row["logprobs"]]
    with torch.no_grad():
        expected = model.model(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    for each, told in zip(expected, row["logprobs"], strict=True):
        assert told["logprob"] == pytest.approx(float(each[told["id"]]), abs=1e-4)
        assert [number for number, _ in told["top"]] == each.topk(2).indices.tolist()
    assert "".join(each["text"] for each in row["logprobs"]) == row["text"]


def test_a_stop_string_ends_an_answer_and_is_not_shown(generate: Generate) -> None:
    """What comes before it is what comes without it."""
    whole = rows(generate("The ", "--json", "--sampler", "greedy").stdout)[0]["text"]
    stop = whole[5:7]
    row = rows(generate("The ", "--json", "--sampler", "greedy", "--stop", stop).stdout)[0]
    assert (row["text"], row["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_a_temperature_is_given_as_elsewhere(generate: Generate) -> None:
    """0 is greedy, whatever the run's chain; a chain without one says so."""
    best = rows(generate("The ", "--json", "--sampler", "greedy").stdout)[0]["text"]
    assert rows(generate("The ", "--json", "--temperature", 0).stdout)[0]["text"] == best
    assert "temperature: the sampler chain has none" in fault(generate("x", "--sampler", "greedy", "--temperature", 1))


def test_chats_of_a_file_go_by_the_template(generate: Generate, llama: Path, tmp_path: Path) -> None:
    """Messages are asked as `chat` asks them; `--chat` makes a message of a text."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    (tmp_path / "p.txt").write_text("Hi\n")
    options = ["--sampler", "greedy", "--max-new-tokens", 5]
    chats = rows(generate("--prompts", path, *options, model=llama).stdout)
    texts = rows(generate("--prompts", tmp_path / "p.txt", "--chat", *options, model=llama).stdout)
    model = llmx.load(llama, sampler=["greedy"])
    assert chats[0]["text"] == texts[0]["text"] == model.generate(model.question("Hi"), max_new_tokens=5)
    assert chats[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_every_bad_line_is_named_before_anything_runs(generate: Generate, tmp_path: Path) -> None:
    """Each fault with its file and line, all at once, and no answer is written."""
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    bad = [
        b"{", b'{"prompt": 3}', b'["x"]', b'{"prompt": "a", "messages": []}', b'{"messages": []}',
        b'{"messages": [{"role": "king", "content": ""}]}', b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "assistant", "content": "x"}]}', b'{"prompt": "\xff"}',
        b'{"messages": [{"role": "user", "content": "x"}], "tools": {}}',
        b'{"messages": [{"role": ["x"]}]}', b'{"messages": [{"role": "tool", "tool_calls": 5}]}',
        b'{"messages": [{"role": "tool", "tool_calls": [{"function": [1]}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        b'{"messages": [{"role": "user", "content": "x", "reasoning_content": 5}]}',
        b'{"prompt": "x", "text": "what it said before"}',
    ]  # fmt: skip
    path.write_bytes(b'{"prompt": "fine"}\n' + b"\n".join(bad))
    lines = fault(generate("--prompts", path, "--out", out)).splitlines()
    assert [int(line.split(":")[1]) for line in lines] == list(range(2, 2 + len(bad)))
    assert not out.exists()
    path.write_text('{"prompt": "fine"}\n' + json.dumps({"prompt": "x" * 100}) + "\n")
    assert f"{path}:2: prompt: is 101 tokens long" in fault(generate("--prompts", path, "--out", out))
    assert not out.exists()
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    assert f"{path}:1: chat: the model was trained on plain text" in fault(generate("--prompts", path))
    (tmp_path / "x.txt").write_bytes(b"fine\n\xff\n")
    assert f"{tmp_path / 'x.txt'}:2: is not valid UTF-8" in fault(generate("--prompts", tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_text("\n \n")
    assert "holds no prompt" in fault(generate("--prompts", tmp_path / "x.txt"))
    assert "No such file" in fault(generate("--prompts", tmp_path / "none.txt"))


def test_a_file_is_read_by_what_its_name_says(tmp_path: Path) -> None:
    """A BOM is no part of it; `.json` holds a list, an object or JSON lines."""
    bom, rows = b"\xef\xbb\xbf", b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n'
    for name, given in {
        "p.txt": bom + b"a\r\nb\r\n",
        "p.jsonl": bom + rows,
        "p.json": bom + b'[{"prompt": "a"},\n {"prompt": "b"}]',
        "lines.json": bom + rows,
    }.items():
        (tmp_path / name).write_bytes(given)
        assert [each.prompt for each in read_prompts(tmp_path / name)] == ["a", "b"], name
    one = tmp_path / "one.json"
    one.write_text('{\n"prompt": "a"}')
    assert [each.prompt for each in read_prompts(one)] == ["a"]
    for text, wanted in {
        '[{"prompt": "a"}, 3]': r"one\.json: \[1\]: must be an object",
        '[{"prompt": "a"},\n': r"one\.json: not valid JSON",
        "[]": "holds no prompt",
        '"text"': r"one\.json: must be an object",
    }.items():
        one.write_text(text)
        with pytest.raises(llmx.DataError, match=wanted):
            read_prompts(one)


def test_parts_of_text_are_one_text(tmp_path: Path) -> None:
    """OpenAI's other form of content."""
    parts = [{"type": "text", "text": "What"}, {"type": "text", "text": " now?"}]
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": parts}]}))
    prompt = read_prompts(tmp_path / "p.jsonl")[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == (Message("user", "What now?"),)


@pytest.mark.parametrize("given", ["The\nof\n", '{"prompt": "The", "id": 1}\n{"prompt": "of"}\n'])
def test_prompts_of_standard_input(generate: Generate, given: str) -> None:
    """JSON lines where the first one is an object, else a text on each."""
    found = generate("--prompts", "-", "--max-new-tokens", 2, stdin=given)
    assert [row["prompt"] for row in rows(found.stdout)] == ["The", "of"]
    assert "stdin:3: not valid JSON" in fault(generate("--prompts", "-", stdin='{"prompt": "a"}\n\nx'))


def test_what_cannot_be_asked_is_told(generate: Generate) -> None:
    """A line each, nothing computed."""
    assert "prompt: there is none: give a PROMPT" in fault(generate())
    assert "one of them is enough" in fault(generate("x", "--prompts", "p.txt"))
    assert "--logprobs: are told in JSON only" in fault(generate("x", "--logprobs", 1))
    assert "--stop: is empty" in fault(generate("x", "--stop", ""))
    assert "--stream: is for text, and JSON is written whole" in fault(generate("x", "--stream", "--json"))
    assert "--stream: is for text" in fault(generate("--prompts", "p.txt", "--stream"))
    assert "--out: is for the answers to --prompts" in fault(generate("x", "--out", "o"))
    assert "there is no folder none" in fault(generate("--prompts", "p.txt", "--out", "none/o.jsonl"))
    assert "--adapter 'x=': must be NAME=FOLDER" in fault(generate("x", "--adapter", "x="))
    assert "holds no adapter_config.json" in fault(generate("x", "--adapter", "/tmp"))
    assert "is not valid UTF-8" in fault(generate("-", stdin=b"\xff\xfe"))
    assert "--chat: the model was trained on plain text" in fault(generate("x", "--chat"))


def test_an_empty_prompt_needs_a_beginning(generate: Generate, llama: Path, tmp_path: Path) -> None:
    """A tokenizer with a token to begin with takes it; one without is a line."""
    assert generate("", "--max-new-tokens", 2).exit_code == 0
    shutil.copytree(llama, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": False}))
    said = fault(generate("", model=tmp_path / "m"))
    assert "prompt: is empty, and the tokenizer has no token to begin with" in said


def test_a_model_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Escapes are shown as pictures there; wide characters, tabs and lines pass, and a pipe gets all as it is."""
    wild = "a\x1b[2J\x07\x9b\r汉\t字\n🙂"
    tame = "a␛[2J␇\ufffd␍汉\t字\n🙂"
    assert printable(wild) == tame
    answer: Any = Said([Token(1, wild), Token(2, "\x1b[31m")])
    for stream in (True, False):
        _print_text(answer, "p\x1b[1m", stream=stream, chat=False)
        assert capsys.readouterr().out == f"p\x1b[1m{wild}\x1b[31m\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for stream in (True, False):
        _print_text(answer, "p\x1b[1m", stream=stream, chat=False)
        assert capsys.readouterr().out == f"\x1b[2mp␛[1m\x1b[0m{tame}␛[31m\n"


class Said(list[Token]):
    """An answer that has ended."""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self)


def test_an_interrupt_keeps_what_was_shown(char_run: Path) -> None:
    """Ctrl-C while text comes: the text so far stays, one line on stderr, exit code 130."""
    main, side = pty.openpty()
    code = (
        "import sys, time, llmx.generate.engine as e; step = e.Engine.step\n"
        "e.Engine.step = lambda self: (time.sleep(0.05), step(self))[1]\n"
        "from llmx.cli import main; main(sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", code, "generate", str(char_run), "The ", "--stream", "--sampler", "greedy"]
    process = subprocess.Popen(arguments, stdout=side, stderr=subprocess.PIPE, text=True)
    os.close(side)
    shown = b""
    while len(shown) < 20:
        shown += os.read(main, 100)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    time.sleep(0.1)
    shown += os.read(main, 1000)
    os.close(main)
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read().strip() == "llmx: interrupted"
    text = shown.decode().replace("\x1b[2m", "").replace("\x1b[0m", "")
    whole = llmx.load(char_run, sampler=["greedy"]).generate("The ")
    assert text.endswith("\r\n")
    said = text.removeprefix("The ").rstrip("\r\n")
    assert whole.replace("\n", "\r\n").startswith(said)
    assert len(said) < len(whole)
