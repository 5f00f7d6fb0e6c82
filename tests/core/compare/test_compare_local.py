"""Models of folders: asked by their own engine, as they would answer alone, and freed before the next."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest

import llmx
from llmx.cli import cli
from llmx.compare.askers import local
from llmx.compare.config import AskOptions, ModelOptions
from llmx.compare.questions import question_of
from llmx.errors import RecipeError


def test_answers_are_those_of_the_model_alone(
    llama: Path, char_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chat model by its template, one of plain text by continuing; greedy, several at once, beside `llmx.load`."""
    (tmp_path / "m.toml").write_text(
        f'[generate]\ntemperature = 0\nmax_new_tokens = 8\n[[model]]\npath = "{llama}"\n'
        f'[[model]]\nname = "plain"\npath = "{char_run}"\n'
    )
    texts = ["The quick", "A list", "What is it?"]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"question": each}) for each in texts))
    flags = ["--out", str(tmp_path / "out"), "--concurrency", "3", "--repeats", "2", "--json"]
    cli.main(["compare", str(tmp_path / "m.toml"), str(tmp_path / "q.jsonl"), *flags], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    chat, plain = (llmx.load(path, sampler=["greedy"]) for path in (llama, char_run))
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    for row in rows:
        text = texts[int(row["question"]) - 1]
        asked = chat.question(text) if row["model"] == "llama" else text
        done = (chat if row["model"] == "llama" else plain).complete(asked, max_new_tokens=8)
        assert (row["text"], row["tokens"], row["finish_reason"]) == (done.text, done.tokens, done.finish_reason)
        assert 0 < row["first_s"] <= row["total_s"]
    assert [each["equal"] for each in summary["models"]] == [1, 1]


def test_draws_differ_by_repeat_and_stay_by_seed(char_run: Path) -> None:
    """Repeats are drawn anew, and each again is the same; a question that does not fit is an error of its own."""
    asker = local(ModelOptions(name="m", path=char_run), AskOptions(temperature=1.0, max_new_tokens=12), 2)
    question, _ = question_of('{"question": "The "}', "1")
    long, _ = question_of(json.dumps({"question": "long " * 50}), "2")
    chat, _ = question_of('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}', "3")
    assert question is not None
    assert long is not None
    assert chat is not None
    first = [asker.ask(question, repeat).text for repeat in range(4)]
    assert first == [asker.ask(question, repeat).text for repeat in range(4)]
    assert len(set(first)) > 1
    assert "leaves no room" in str(asker.ask(long, 0).error)
    assert "the model continues texts" in str(asker.ask(chat, 0).error)
    held = weakref.ref(asker.loaded.model)  # type: ignore[union-attr]
    asker.close()
    assert held() is None  # before the next model is loaded


def test_a_text_model_is_not_made_to_chat(char_run: Path) -> None:
    """`mode = "chat"` needs a template, and the line says which model has none."""
    with pytest.raises(RecipeError, match='model m: mode = "chat": it was trained on plain text'):
        local(ModelOptions(name="m", path=char_run, mode="chat"), AskOptions(), 1)
