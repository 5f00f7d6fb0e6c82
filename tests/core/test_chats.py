"""Runs on chats: what is asked at their end, how, and what is told of turns that are lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmx
from llmx.assembly import Run
from llmx.data.encode import Encoder
from llmx.generate.prompts import ChatPrompt
from llmx.protocols import Message

Cli = Callable[..., Any]
NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo"]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty chats of two turns, each with a system message."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            name = NAMES[number % 10] * (1 + number // 10)
            turns = [("system", f"You are {name}."), ("user", f"Who is {name}?"), ("assistant", f"I am {name}.")]
            turns += [("user", "Sure?"), ("assistant", "Yes.")]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def train(path: Path, out: Path, *more: str, **names: object) -> Run:
    sizes = ["model.preset=nano", "model.context_length=128", "data.sequence_length=128", "train.tokens_per_update=256"]
    overrides = [f"data.path={path}", *sizes, "train.steps=1", "data.held_out=0.2", "generate.max_new_tokens=8", *more]
    return llmx.run(overrides=overrides, tokenizer="char", out=out, **names)  # type: ignore[arg-type]


def test_held_out_chats_are_answered_at_the_end(chats: Path, tmp_path: Path) -> None:
    """By the template, with their system message, up to the end of the turn; none of them was trained on."""
    run = train(chats, tmp_path / "r", "generate.samples=2")
    asked = run.prompts()
    assert [prompt for prompt, _ in run.samples] == asked
    assert len(asked) == 2
    records = [json.loads(line)["messages"] for line in chats.read_text(encoding="utf-8").splitlines()]
    for prompt in asked:
        assert isinstance(prompt, ChatPrompt)
        assert [each.role for each in prompt.messages] == ["system", "user"]
        assert [{"role": each.role, "content": each.content} for each in prompt.messages] in [r[:2] for r in records]
    rows = [json.loads(line) for line in (tmp_path / "r" / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [(str(prompt), text) for prompt, text in run.samples]


def test_prompts_of_the_recipe_are_asked_as_a_user_would(chats: Path, tmp_path: Path) -> None:
    """A model that was trained on chats alone is not given a text to continue."""
    run = train(chats, tmp_path / "r", 'generate.prompts=["Who is Bo?"]', callback=["samples"])
    assert run.prompts() == [ChatPrompt((Message("user", "Who is Bo?"),))]


def test_a_question_is_asked_by_the_template(chats: Path, tmp_path: Path, llmx_cli: Cli) -> None:
    """`llmx generate --chat`, as the end of a run says; a model of plain text has no template and says so."""
    train(chats, tmp_path / "r")
    model = llmx.load(tmp_path / "r")
    asked = llmx_cli("generate", tmp_path / "r", "Who is Bo?", "--chat", "--json", "--max-new-tokens", 5)
    assert json.loads(asked.stdout)["text"] == model.generate(model.question("Who is Bo?"), max_new_tokens=5)
    assert model.generate(model.question("Who is Bo?")) != model.generate("Who is Bo?")
    turns = [{"role": "system", "content": "You are Bo."}, {"role": "user", "content": "Who is Bo?"}]
    assert model.chat(turns) == ChatPrompt((Message("system", "You are Bo."), Message("user", "Who is Bo?")))
    assert model.generate(turns[1:]) == model.generate(model.question("Who is Bo?"))
    with pytest.raises(llmx.RecipeError, match=r"^prompt: a turn lacks 'content'"):
        model.chat([{"role": "user"}])
    (tmp_path / "plain.txt").write_text("Bo is here. " * 400)
    train(tmp_path / "plain.txt", tmp_path / "plain")
    refused = llmx_cli("generate", tmp_path / "plain", "Who is Bo?", "--chat")
    assert refused.returncode == 2
    assert "--chat: the model was trained on plain text" in refused.stderr


def test_an_answer_ends_with_the_turn(chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model sees the ids of the template's prompt, and the template's end of a turn stops it."""
    run = train(chats, tmp_path / "r", "generate.samples=0")
    prompt = ChatPrompt((Message("user", "Who is Bo?"),))
    seen: list[list[int]] = []
    end = run.tokenizer.special_id("<|im_end|>")
    assert end is not None
    hidden, head = type(run.model).hidden, type(run.model).head

    def spy(self, ids_BT, **more):  # type: ignore[no-untyped-def]
        seen.append(ids_BT[0].tolist())
        return hidden(self, ids_BT, **more)

    def sure(self, hidden_BTD):  # type: ignore[no-untyped-def]
        logits = head(self, hidden_BTD)
        logits[..., end] = 1e4  # it is sure to end
        return logits

    monkeypatch.setattr(type(run.model), "hidden", spy)
    monkeypatch.setattr(type(run.model), "head", sure)
    assert run.generate(prompt) == ""
    assert seen == [Encoder(run.tokenizer, run.template).prompt(prompt.messages)]


def test_turns_that_are_lost_are_told(chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A template that writes a turn otherwise once others follow, so that it cannot be trained on."""
    path = tmp_path / "rewriting.jinja"
    path.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    run = train(chats, tmp_path / "r", f"template.path={path}", template="jinja", logger=["console"])
    lost = run.train_rows.facts()["lost_turns"]
    assert lost == run.train_rows.facts()["documents"] > 20
    assert f"{lost} turns are not trained on: the template rewrites them once others follow" in capsys.readouterr().out
