"""`llmx chat`: what the model is given at each turn, commands, files, and a conversation at a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import llmx
from llmx import RecipeError
from llmx.errors import DataError
from llmx.protocols import Message
from llmx_chat.conversation import Conversation
from llmx_chat.files import load_chat, save_chat
from llmx_chat.live import Live
from llmx_chat.settings import Settings

SAID = {"你是谁？": "我是小明，一个助手。", "几点开门？": "九点开门，晚上八点关门。", "谢谢": "不客气！"}


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that has learnt three answers by heart."""
    root = tmp_path_factory.mktemp("chat")
    rows = [json.dumps({"query": query, "response": answer}) for query, answer in SAID.items()]
    (root / "c.jsonl").write_text("\n".join(rows * 4))
    sizes = ["model.preset=nano", "model.context_length=128", "data.sequence_length=64", "train.tokens_per_update=256"]
    few = ["train.steps=60", "train.precision=fp32", "optimizer.lr=2e-2", "generate.samples=0", "data.held_out=0"]
    data = f"data.path={root / 'c.jsonl'}"
    llmx.run(overrides=[data, *sizes, *few], tokenizer="char", logger=["jsonl"], out=root / "run")
    return root / "run"


@pytest.fixture
def talk(chat_run: Path) -> Iterator[Conversation]:
    """A conversation that always draws the best token."""
    talk = Conversation(llmx.load(chat_run, sampler=["greedy"]))
    yield talk
    talk.close()


def said(turn: Any) -> str:
    text = "".join(each.text for each in turn)
    turn.keep()
    return text


def prompt_of(turn: Any, talk: Conversation) -> str:
    return talk.loaded.tokenizer.decode(turn.answer.request.ids)


# --- conversations --------------------------------------------------------------------------------------------------


def test_it_answers_as_it_was_taught(talk: Conversation) -> None:
    """The template that trained the model asks it."""
    assert said(talk.ask("你是谁？")) == SAID["你是谁？"]
    talk.forget()
    assert said(talk.ask("谢谢")) == SAID["谢谢"]


def test_the_whole_chat_is_given_each_turn(talk: Conversation) -> None:
    """The prompt of a later turn is what the encoder makes of all before it, the system's message first."""
    talk.system = "助"
    said(talk.ask("你是谁？"))
    turn = talk.ask("谢谢")
    expected = talk.loaded.chat(
        [Message("system", "助"), *[Message(*each) for each in zip(("user", "assistant", "user"),
        ("你是谁？", talk.messages[1].content, "谢谢"), strict=True)]]
    )  # fmt: skip
    assert list(turn.answer.request.ids) == list(talk.loaded.request(expected).ids)
    said(turn)


def test_the_oldest_turns_leave_a_full_context(talk: Conversation) -> None:
    """Whole exchanges go, the system's message never, what was said is kept, and one too long alone is refused."""
    talk.system = "助"
    for _ in range(8):
        said(talk.ask("几点开门？"))
    assert talk.dropped >= 2
    assert talk.messages[talk.dropped].role == "user"
    assert len(talk.messages) == 16
    assert talk.used_tokens <= 128
    turn = talk.ask("谢谢")
    assert prompt_of(turn, talk).count("助") >= 1
    said(turn)
    dropped = talk.dropped
    with pytest.raises(RecipeError, match=r"prompt: is \d+ tokens long; the model's context of 128"):
        talk.ask("门" * 200)
    assert (len(talk.messages), talk.dropped) == (18, dropped)


def test_a_system_message_that_fills_the_context_is_blamed(talk: Conversation) -> None:
    """Not the short question after it."""
    talk.system = "门" * 200
    with pytest.raises(RecipeError, match=r"^/system: its 200 tokens leave no room in the model's context of 128"):
        talk.ask("谢谢")
    assert talk.messages == []


def test_bytes_that_are_no_utf8_are_told(talk: Conversation) -> None:
    """Of a question and of what the system says; nothing was said then."""
    with pytest.raises(RecipeError, match=r"^prompt: is not valid UTF-8: convert it"):
        talk.ask("a\udcff")
    talk.system = "\udcff"
    with pytest.raises(RecipeError, match=r"^system: is not valid UTF-8: convert it"):
        talk.ask("谢谢")
    assert talk.messages == []


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In the command's words."""
    with pytest.raises(RecipeError, match=r"^/load: .*nofile.json: no such file$"):
        load_chat(tmp_path / "nofile.json")


def test_retry_asks_the_last_question_again(chat_run: Path) -> None:
    """In place of its answer, with another draw; before anything was asked it says so."""
    talk = Conversation(llmx.load(chat_run, sampler=["temperature"], overrides={"sampler.temperature.temperature": 3}))
    with pytest.raises(RecipeError, match="/retry: nothing was asked yet"):
        talk.retry()
    first = said(talk.ask("你是谁？"))
    assert said(talk.retry()) != first
    assert [message.role for message in talk.messages] == ["user", "assistant"]
    talk.close()


def test_a_retry_that_gives_nothing_leaves_the_chat_as_it_was(talk: Conversation) -> None:
    """Stopped before its first token, or refused by the engine; a first question without an answer is taken back."""
    turn = talk.ask("谢谢")
    turn.stop()
    assert turn.keep() == "the question is taken back"
    assert talk.messages == []
    said(talk.ask("你是谁？"))
    before = list(talk.messages)
    turn = talk.retry()
    turn.stop()
    assert turn.keep() == "the answer before stays"
    assert talk.messages == before
    talk.model = "nobody"
    with pytest.raises(RecipeError, match="no such model"):
        talk.retry()
    assert talk.messages == before


def test_a_schema_stands_before_what_keeps_the_likeliest() -> None:
    """After top-k it might leave no token; it is not dropped for greedy either."""
    settings = Settings([("top-k", {"k": 1})])
    settings.change('json-schema="{}"')
    assert [name for name, _ in settings.links] == ["json-schema", "top-k"]
    settings.change("temperature=0")
    assert [name for name, _ in settings.links] == ["json-schema", "greedy"]
    settings.change('json-schema="true"')
    assert settings.links == [("json-schema", {"schema": "true"}), ("greedy", {})]


def test_a_stopped_answer_stays_and_is_not_trained_on(talk: Conversation, tmp_path: Path) -> None:
    """What was shown of it is in the chat, marked; a slot is free again."""
    turn = talk.ask("几点开门？")
    shown = next(iter(turn)).text
    turn.stop()
    turn.keep()
    assert talk.messages[-1].content == shown
    assert talk.messages[-1].loss is False
    save_chat(tmp_path / "s.jsonl", "", talk.messages)
    assert load_chat(tmp_path / "s.jsonl")[-1].loss is False
    assert said(talk.retry()) == SAID["几点开门？"]
    assert talk.messages[-1].loss is None


def test_settings_change_the_chain() -> None:
    """One option of a link, a link more or less, greedy for temperature 0; what is none is refused unchanged."""
    settings = Settings([("temperature", {"temperature": 0.7}), ("top-p", {"p": 0.9})])
    settings.change("temperature=0.3")
    settings.change("top_k = 20")
    settings.change("top-p=off")
    settings.change("seed=7")
    assert str(settings) == "temperature=0.3, top-k=20, seed=7"
    for wrong, message in [
        ("temprature=1", "nearest: temperature"),
        ("temperature", "must be NAME=VALUE"),
        ("temperature=hot", "^/set temperature=hot: must be float"),
        ("top-k=0", "must be >= 1"),
        ("seed=-1", "must be a whole number from 0"),
    ]:
        with pytest.raises(RecipeError, match=message):
            settings.change(wrong)
    assert str(settings) == "temperature=0.3, top-k=20, seed=7"
    settings.change("temperature=0")
    assert str(settings) == "greedy, seed=7"
    settings.change("temperature=1.0")
    assert str(settings) == "temperature=1.0, seed=7"


def test_what_is_saved_can_be_trained_on(talk: Conversation, tmp_path: Path) -> None:
    """Two chats in one file, one a line, after a line without its end; a run takes them and /load reads the last."""
    path = tmp_path / "s.jsonl"
    with pytest.raises(DataError, match="nothing was answered yet"):
        save_chat(path, "", talk.messages)
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')
    said(talk.ask("谢谢"))
    assert save_chat(path, "助", talk.messages) == 3
    assert len(path.read_text().splitlines()) == 2
    found = load_chat(path)
    assert [(each.role, each.content) for each in found] == [("system", "助"), ("user", "谢谢"),
                                                              ("assistant", SAID["谢谢"])]  # fmt: skip
    talk.replace(found)
    assert talk.system == "助"
    assert len(talk.messages) == 2
    with pytest.raises(DataError, match="give a file of chats"):
        load_chat(tmp_path / "x.bin")
    sizes = ["model.preset=nano", "train.steps=1", "train.tokens_per_update=64", "generate.samples=0"]
    llmx.run(overrides=[f"data.path={path}", "data.held_out=0", *sizes], tokenizer="char", logger=["jsonl"],
             out=tmp_path / "run")  # fmt: skip


def test_the_speed_below_an_answer_leaves_its_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before more text comes, and never stands where the terminal may be about to wrap."""
    monkeypatch.setattr("llmx_chat.live._columns", lambda _: 41)
    file = io.StringIO()
    live, text = Live(file), "我是a\n" + "九点开门，晚上八点b" * 30
    for character in text:
        live.write(character, status="7 tokens/s")
    live.close()
    below = re.compile(r"\x1bD\x1b\[A\x1b7\r\n7 tokens/s\x1b8(\x1b\[J)?")
    assert below.sub("", file.getvalue()) == text
    assert all(found[1] for found in below.finditer(file.getvalue()))
    seen, column = 0, 0
    for before in below.sub("!", file.getvalue()):
        if before == "!":
            seen += 1
            assert column < 39
            continue
        width = 1 if before.isascii() else 2
        column = 0 if before == "\n" else width if column + width > 41 else column + width
    assert seen > 250
    narrow = io.StringIO()
    monkeypatch.setattr("llmx_chat.live._columns", lambda _: 20)
    Live(narrow).write("a", status="7 tokens/s")
    assert narrow.getvalue() == "a"


# --- the command ----------------------------------------------------------------------------------------------------


def command(run: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmx", "chat", str(run), "--sampler", "greedy", *arguments]


def piped(run: Path, text: bytes, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    return subprocess.run(command(run, *arguments), input=text, capture_output=True, env=env, timeout=120, check=False)


def test_from_a_pipe_each_line_is_a_message(chat_run: Path, tmp_path: Path) -> None:
    """Answers alone are printed, one for each message; a backslash goes on in the next line."""
    done = piped(chat_run, "你是谁？\n\n/clear\n谢谢\n/clear\n几点\\\n开门？".encode(), tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == [SAID["你是谁？"], SAID["谢谢"]]
    assert len(lines) == 3
    assert done.stderr.decode().splitlines() == ["llmx: the chat is empty"] * 2
    bad = piped(chat_run, b"\xff\n", tmp_path)
    assert (bad.returncode, bad.stderr) == (
        2, b"llmx: stdin:1: is not valid UTF-8: convert it, as with iconv -t UTF-8\n",
    )  # fmt: skip
    assert b"/nothing: no such command" in piped(chat_run, b"/nothing\n", tmp_path).stderr


def test_a_model_of_plain_text_is_refused(char_run: Path, tmp_path: Path) -> None:
    """One line that says what to use."""
    done = piped(char_run, b"Hi\n", tmp_path)
    assert done.returncode == 2
    said = "chat: the model was trained on plain text and has no template: continue texts with llmx generate"
    assert done.stderr.decode() == f"llmx: {said}\n"


SLOW = """
import sys, time, llmx.generate.engine as e
step = e.Engine.step
e.Engine.step = lambda self: (time.sleep(0.15), step(self))[1]
from llmx.cli import main
main(sys.argv[1:])
"""


SLOWEST = SLOW.replace("0.15", "2")
PROMPT = "\n>"
STATUS = re.compile(r"\x1bD\x1b\[A\x1b7\r+\n.*?\x1b8(\x1b\[J)?")
"""What stands below an answer while it comes, and goes again."""


class Screen:
    """A program at a pseudo-terminal."""

    def __init__(self, arguments: list[str], state: Path) -> None:
        self.main, side = pty.openpty()
        termios.tcsetwinsize(side, (24, 80))
        env = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            arguments, stdin=side, stdout=side, stderr=side, env=env, start_new_session=True
        )
        os.close(side)
        os.set_blocking(self.main, False)
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)

    def wait(self, *wanted: str, seconds: float = 60) -> str:
        """Read until all that is wanted came, one after another, since the last keys; return what did."""
        until, text = time.monotonic() + seconds, ""
        pattern = re.compile(".*".join(map(re.escape, wanted)), re.DOTALL)
        while time.monotonic() < until:
            try:
                self.seen += os.read(self.main, 10_000)
            except (BlockingIOError, OSError):
                time.sleep(0.02)
            text = STATUS.sub("", self.seen.decode("utf-8", "replace"))
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
            if pattern.search(text):
                return text
        raise AssertionError(f"not seen: {text[-2000:]}")

    def type(self, text: str) -> None:
        """Send keys. Whoever waits for the prompt first knows that the program, not the terminal, gets them."""
        self.seen = b""
        os.write(self.main, text.encode())


def test_a_conversation_at_a_terminal(chat_run: Path, tmp_path: Path) -> None:
    """Streaming, Ctrl-C in an answer, /retry, a pasted message of two lines, /save, history, Ctrl-D."""
    arguments = [sys.executable, "-c", SLOW, *command(chat_run)[3:]]
    with Screen(arguments, tmp_path) as screen:
        screen.wait("Ctrl-D leaves", PROMPT)
        screen.type("几点开门？\r")
        screen.wait("九点")
        os.killpg(screen.process.pid, signal.SIGINT)  # what the terminal does for Ctrl-C
        text = screen.wait("stopped after", PROMPT)
        assert SAID["几点开门？"] not in text
        screen.type("/retry\r")
        screen.wait(SAID["几点开门？"], "tokens/s", PROMPT)
        screen.type("/clear\r")
        screen.wait("the chat is empty", PROMPT)
        screen.type("\x1b[200~谢\n谢\x1b[201~\r")
        screen.wait("tokens, ", PROMPT)
        screen.type("/nope\r")
        screen.wait("/nope: no such command", PROMPT)
        screen.type(f"/save {tmp_path / 'c.jsonl'}\r")
        screen.wait("2 messages added", PROMPT)
        screen.type("\x04")
        assert screen.process.wait(20) == 0
    assert json.loads((tmp_path / "c.jsonl").read_text())["messages"][0] == {"role": "user", "content": "谢\n谢"}
    history = tmp_path / "llmx" / "chat_history"
    assert "几点开门" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_an_answer_at_a_terminal_has_its_speed_and_no_keys_in_it(chat_run: Path, tmp_path: Path) -> None:
    """What is typed meanwhile waits for the next prompt; a bare clear forgets the chat, and a bare q leaves."""
    with Screen([sys.executable, "-c", SLOW, *command(chat_run)[3:]], tmp_path) as screen:
        screen.wait("exit or Ctrl-D leaves", PROMPT)
        screen.type("几点开门？\r")
        screen.wait("九")
        screen.type("谢谢")
        text = screen.wait("13 tokens, ", PROMPT)
        assert len(STATUS.findall(screen.seen.decode())) > 3
        answer, _, prompt = text.rpartition("13 tokens, ")
        assert "谢谢" not in answer
        assert "谢谢" in prompt or screen.wait("谢谢")
        screen.type("\x15 clear\r")
        screen.wait("the chat is empty", PROMPT)
        screen.type("q\r")
        assert screen.process.wait(20) == 0


def test_a_question_that_is_taken_back_is_told(chat_run: Path, tmp_path: Path) -> None:
    """Ctrl-C before the first token of its answer."""
    with Screen([sys.executable, "-c", SLOWEST, *command(chat_run)[3:]], tmp_path) as screen:
        screen.wait("Ctrl-D leaves", PROMPT)
        screen.type("几点开门？\r")
        screen.wait("几点开门？")
        time.sleep(0.7)
        os.killpg(screen.process.pid, signal.SIGINT)
        screen.wait("stopped after 0 tokens: the question is taken back", PROMPT)
