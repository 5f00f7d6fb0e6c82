"""What the sources of a recipe have in common: chats among texts, a template's options, what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmx.api import layers_of
from llmx.corpora import make_reading, new_corpora
from llmx.data.prepare import identity_of
from llmx.data.store import TokenStore
from llmx.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken from what was prepared before."""
    monkeypatch.setenv("LLMX_CACHE", str(tmp_path / "cache"))


def chat(number: int) -> dict[str, object]:
    turns = [("user", f"Who is {number}?"), ("assistant", f"I am {number}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def recipe_of(*overrides: str, **names: str) -> Recipe:
    return Recipe.resolve(layers_of(overrides=list(overrides), tokenizer="char", **names))  # type: ignore[arg-type]


@pytest.mark.parametrize("texts_first", [True, False])
def test_chats_and_texts_in_one_file(tmp_path: Path, texts_first: bool) -> None:
    """A template is made whichever comes first, and the tokenizer has its special tokens."""
    texts = [{"text": f"text {number}"} for number in range(30)]
    chats = [chat(number) for number in range(30)]
    path = write(tmp_path / "x.jsonl", texts + chats if texts_first else chats + texts)
    corpora = new_corpora(recipe_of(f"data.path={path}", "data.held_out=0.2"))
    assert corpora.template is not None
    assert corpora.tokenizer.special_id("<|im_start|>") is not None
    store = TokenStore(corpora.folders[0], "train")
    assert store.masked


def test_the_options_of_a_template_are_part_of_the_key(tmp_path: Path) -> None:
    """Two days are two stores though no chat of ours shows the day; two copies of one template are one store."""
    path = write(tmp_path / "x.jsonl", [chat(number) for number in range(30)])
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    keys = {}
    for name, date in (("a", "2025-01-01"), ("a", "2025-01-02"), ("b", "2025-01-02")):
        (tmp_path / f"{name}.jinja").write_text(template)
        more = [f"template.path={tmp_path / name}.jinja", f"template.date='{date}'"]
        made = make_reading(recipe_of(f"data.path={path}", *more, template="jinja"))
        (dataset,) = made.datasets.values()
        keys[name, date] = json.dumps(identity_of(dataset, made.split, made.encoder, made.digest))
    assert keys["a", "2025-01-01"] != keys["a", "2025-01-02"] == keys["b", "2025-01-02"]


def test_no_source_trains_on_what_another_holds_out(tmp_path: Path) -> None:
    """The chat that a source of three holds out is held out in one of hundreds that has it too."""
    few = write(tmp_path / "few.jsonl", [chat(number) for number in range(3)])
    many = write(tmp_path / "many.jsonl", [chat(number) for number in range(300)])
    corpora = new_corpora(recipe_of(f"data.sources=[{{path='{few}'}}, {{path='{many}'}}]"))
    said: dict[str, set[tuple[int, ...]]] = {"train": set(), "val": set()}
    for folder in corpora.folders:
        for name, found in said.items():
            store = TokenStore(folder, name)
            found |= {tuple(store.document(number)[0].tolist()) for number in range(store.documents)}
    assert TokenStore(corpora.folders[0], "val").documents >= 1
    assert len(said["train"] | said["val"]) == 300
    assert not said["train"] & said["val"]
