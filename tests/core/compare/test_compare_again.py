"""Asking again: what was answered is not asked twice, after a change of the files or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmx.cli import cli
from llmx.compare.results import read_plan
from llmx.errors import RecipeError

Compare = Callable[..., dict[str, Any]]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of answers.jsonl."""
    return [json.loads(line) for line in (folder / "out" / "answers.jsonl").read_text().splitlines()]


def test_only_what_is_new_is_asked(served: Any, compare: Compare, tmp_path: Path) -> None:
    """Nothing by the same command; the new question, repeat or model alone; all of it with another temperature."""
    compare(served.table())
    compare(served.table())
    assert len(served.asked) == 4
    compare(served.table(), 5)
    assert len(served.asked) == 5
    compare(served.table(), 5, "--repeats", "2")
    assert len(served.asked) == 10
    found = compare(served.table() + "\n" + served.table(name="other"), 5)
    assert len(served.asked) == 15
    assert [each["answers"] for each in found["models"]] == [5, 5]
    compare("[generate]\ntemperature = 1\n" + served.table(), 5)
    assert len(served.asked) == 20
    with (tmp_path / "out" / "answers.jsonl").open("ab") as file:
        file.write(b'{"key": "half')
    compare(served.table(), 6)
    assert len(served.asked) == 21
    assert len(rows(tmp_path)) == 21  # every line is whole


def test_a_question_keeps_its_answers_in_another_line(served: Any, compare: Compare, tmp_path: Path) -> None:
    """One put first is asked alone, and so is a second of the same words; scores and ratings go with the words."""
    asked = [{"question": f"number {at}", "expect": {"contains": str(at)}} for at in range(5, 8)]
    compare(served.table(), asked)
    first = served.asked[0]["messages"]
    key = read_plan(tmp_path / "out").wanted[served.url.split("/")[2]][2].key
    assert rows(tmp_path)[2]["key"] == key
    found = compare(served.table(), [{"question": "number 9"}, *asked, asked[0]])
    assert [each["messages"][-1]["content"] for each in served.asked[3:]] == ["number 9", "number 5"]
    assert served.asked[4]["messages"] == first
    assert found["models"][0]["scores"]["rules"]["mean"] == 1.0
    assert found["models"][0]["answers"] == 5
    plan = read_plan(tmp_path / "out")
    wanted = plan.wanted[served.url.split("/")[2]]
    assert not plan.missing(served.url.split("/")[2])
    assert [each.question.id for each in wanted] == ["1", "2", "3", "4", "5"]
    assert wanted[3].key == key
    again = CliRunner().invoke(cli, ["compare", str(tmp_path / "out"), "--json"])
    assert json.loads(again.stdout) == {name: each for name, each in found.items() if name not in ("said", "exit_code")}


def test_a_folder_takes_no_flags_of_asking(served: Any, compare: Compare, tmp_path: Path) -> None:
    """They would be ignored: one line names all of them."""
    compare(served.table())
    wrong = ["--dry-run", "--out", "x", "--repeats", "1", "--judge", "http://x/v1", "--concurrency", "2"]
    error = CliRunner().invoke(cli, ["compare", str(tmp_path / "out"), "--json", *wrong]).exception
    assert isinstance(error, RecipeError)
    assert str(error).startswith("--out, --repeats, --concurrency, --judge, --dry-run: for asking, and ")
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_comparison_goes_on(served: Any, tmp_path: Path, number: signal.Signals) -> None:
    """Killed while it asks; what was answered is not asked again, and SIGINT ends it at once with 130."""
    served.answer = lambda *_: (time.sleep(0.15), "echo")[1]
    (tmp_path / "m.toml").write_text(served.table())
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"question": f"q{at}"}) for at in range(30)))
    command = [sys.executable, "-m", "llmx", "compare", "m.toml", "q.jsonl", "--out", "out", "--concurrency", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    until = time.monotonic() + 60
    while len(served.asked) < 9 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    began = time.monotonic()
    code = process.wait(20)
    assert time.monotonic() - began < 2
    assert code == (130 if number == signal.SIGINT else -9)
    assert process.stderr is not None
    process.stderr.close()
    kept, asked = len(rows(tmp_path)), len(served.asked)
    assert 6 <= kept <= asked <= 12
    served.answer = lambda *_: "echo"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(served.asked) == asked + 30 - kept
    assert f"m: {30 - kept} answers" in done.stderr.replace(served.url.split("/")[2], "m")
