"""`llmx tokenizer train` and `llmx tokenizer inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from llmx import Registry
from llmx.cli.tokenizer import command
from llmx.cli.tokenizer.train import run_with
from llmx.errors import DataError, LlmxError, RecipeError
from llmx.pretrained import LLMX, load_tokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog is asleep.",
    "敏捷的棕色狐狸跳过懒狗，狗在睡觉。狐狸很快。",
    "Ångström & Größe: naïve cafés.",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short documents in two scripts."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    records = [{"text": f"{LINES[n % 3]}\n" * (n % 4 + 1) + str(n)} for n in range(60)]
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    """Run a subcommand and return what it prints on stdout."""
    done = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer learned from the corpus, in a folder whose parent did not exist."""
    out = tmp_path_factory.mktemp("out") / "new" / "bpe"
    said = run("train", f"data.path={corpus}", "--tokenizer", "bpe", "tokenizer.vocab_size=400", "--out", out)
    assert said.startswith("bpe: 3")
    assert f"tokenizer.path={out}" in said
    assert [each.name for each in out.parent.iterdir()] == ["bpe"]
    return out


def test_what_was_learned_is_read_again(trained: Path) -> None:
    """By llmx, whose hash of the files holds, by a run that names the folder, and by transformers; with what it saw."""
    ours, theirs = load_tokenizer(trained, Registry()), AutoTokenizer.from_pretrained(trained)
    assert ours.encode(LINES[0]) == theirs(LINES[0], add_special_tokens=False).input_ids
    assert len(ours.encode(LINES[0])) < len(LINES[0]) / 3
    facts = json.loads((trained / LLMX).read_text())["learned_from"]
    assert facts["vocab_size"] == ours.vocab_size
    assert facts["options"]["vocab_size"] == 400
    assert 50 <= facts["documents"] < 60  # the others are held out
    assert len(facts["data"]) == 1


def test_learning_again_gives_the_same_files(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """Also by other arguments for the same recipe."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[data]\npath = "{corpus}"\n[tokenizer]\nname = "bpe"\nvocab_size = 400\n')
    printed = json.loads(run("train", recipe, "--out", tmp_path / "again", "--json"))
    assert {each.name: each.read_bytes() for each in trained.iterdir()} == {
        each.name: each.read_bytes() for each in (tmp_path / "again").iterdir()
    }
    assert printed == json.loads((trained / LLMX).read_text())["learned_from"]


def test_the_run_it_names_is_of_the_same_corpus() -> None:
    """Recipe, overrides and other parts are repeated, quoted for a shell; what was said of the tokenizer is not."""
    overrides = ["data.path=a b.txt", "tokenizer.vocab_size=300", "tokenizer=bpe", "data.limit=3"]
    names = {"tokenizer": "bpe", "model": "tinyllm", "logger": ("console", "jsonl"), "data": None}
    command = run_with(Path("my tok"), Path("r.toml"), overrides, names)
    first = "llmx run r.toml 'data.path=a b.txt' data.limit=3 --model tinyllm --logger console --logger jsonl"
    assert command == f"{first} --tokenizer hf 'tokenizer.path=my tok'"
    assert run_with(Path("tok"), None, [], {}) == "llmx run --tokenizer hf tokenizer.path=tok"


def test_the_held_out_documents_are_not_learned_from(corpus: Path, tmp_path: Path) -> None:
    """A character that only a held-out document has gets no id; with nothing held out it has one."""
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "marked.jsonl"
    marks = [chr(0x4E00 + n) for n in range(len(texts))]
    rows = zip(texts, marks, strict=True)
    path.write_text("".join(json.dumps({"text": text + mark}) + "\n" for text, mark in rows), encoding="utf-8")
    known = {}
    for share in (0.2, 0.0):
        out = tmp_path / str(share)
        run("train", f"data.path={path}", f"data.held_out={share}", "--tokenizer", "char", "--out", out)
        tokenizer = load_tokenizer(out, Registry())
        known[share] = sum(len(tokenizer.encode(mark)) == 1 for mark in marks)
    assert known[0.0] == len(marks)
    assert 0 < known[0.2] < len(marks)


def test_several_sources_are_learned_from(corpus: Path, tmp_path: Path) -> None:
    """Each of `[[data.sources]]` is read, and named in what is written down."""
    other = tmp_path / "other.txt"
    other.write_text("ζηθ " * 50 + "\n", encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    tables = "".join(f'[[data.sources]]\nlabel = "{name}"\npath = "{path}"\n' for name, path in
                     (("one", corpus), ("two", other)))  # fmt: skip
    recipe.write_text(tables)
    facts = json.loads(run("train", recipe, "--tokenizer", "char", "--out", tmp_path / "out", "--json"))
    assert [each["label"] for each in facts["data"]] == ["one", "two"]
    tokenizer = load_tokenizer(tmp_path / "out", Registry())
    assert [len(tokenizer.encode(each)) for each in ("ζ", "敏")] == [1, 1]


def test_chats_bring_the_special_tokens_of_their_template(tmp_path: Path) -> None:
    """A corpus of messages is learned from with those of the recipe's template, one id each."""
    path = tmp_path / "chats.jsonl"
    said = {"role": "assistant", "content": "Well enough."}
    chats = [[{"role": "user", "content": f"How are you, number {n}?"}, said] for n in range(40)]
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in chats))
    run("train", f"data.path={path}", "--tokenizer", "bpe", "--out", tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out", Registry())
    assert len(tokenizer.encode_markup("<|im_start|><|im_end|>")) == 2
    assert len(tokenizer.encode(" enough")) <= 2


def faults(corpus: Path, folder: Path) -> list[tuple[list[object], type[LlmxError], str]]:
    """Return arguments that are wrong, with the error that says so."""
    (folder / "there").mkdir()
    (folder / "empty.jsonl").write_text("")
    data, out = f"data.path={corpus}", ["--out", folder / "out"]
    return [
        (["train", data, "--out", folder / "there"], RecipeError, "there: exists already"),
        (["train", f"data.path={folder / 'empty.jsonl'}", "--tokenizer", "char", *out], DataError, "no"),
        (["train", data, "--tokenizer", "nope", *out], RecipeError, "no such tokenizer"),
        (["train", data, "--tokenizer", "bpe", "tokenizer.vocab_size=9", *out], RecipeError, "tokenizer.vocab_size"),
        (["inspect", folder / "there"], RecipeError, "tokenizer.json: No such file"),
        (["inspect", folder / "there", "notes"], RecipeError, "'notes': is no KEY=VALUE"),
    ]


def test_errors_say_what_to_do_and_leave_nothing(corpus: Path, trained: Path, tmp_path: Path) -> None:
    """Each is one line; nothing is written, not even what was begun; a tokenizer that learns nothing is refused."""
    hf = ["train", f"data.path={corpus}", "--tokenizer", "hf", f"tokenizer.path={trained}", "--out", tmp_path / "out"]
    for arguments, kind, message in [*faults(corpus, tmp_path), (hf, RecipeError, "'hf': learns nothing from text")]:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(kind) as caught:
            run(*arguments)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == before


# --- inspect --------------------------------------------------------------------------------------------------------


def inspected(*arguments: object) -> dict[str, Any]:
    """Return the figures of a tokenizer."""
    found: dict[str, Any] = json.loads(run("inspect", *arguments, "--json"))
    return found


def test_figures_are_those_of_the_library(trained: Path, corpus: Path) -> None:
    """Tokens, bytes and characters, all and by script, are what transformers and Python count."""
    found = inspected(trained, f"data.path={corpus}")
    theirs = AutoTokenizer.from_pretrained(trained)
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    tokens = sum(len(theirs(text, add_special_tokens=False).input_ids) for text in texts)
    assert found["vocab_size"] == len(theirs)
    assert found["special_tokens"] == {"<pad>": 0, "<unk>": 1, "<bos>": 2, "<eos>": 3}
    assert (found["bos_id"], found["eos_id"]) == (2, 3)
    counts = found["texts"]
    assert (counts["documents"], counts["tokens"]) == (60, tokens)
    assert counts["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in texts) / tokens)
    assert counts["characters_per_token"] == pytest.approx(sum(map(len, texts)) / tokens)
    assert counts["round_trip"] == {"normalised": 0, "lost": 0, "example": None}
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    cjk = [line for line in lines if "狐" in line]
    assert counts["scripts"].keys() == {"cjk", "latin"}
    assert counts["scripts"]["cjk"]["documents"] == len(cjk) > 10
    assert counts["scripts"]["cjk"]["tokens"] == sum(len(theirs(t, add_special_tokens=False).input_ids) for t in cjk)
    assert counts["scripts"]["latin"]["documents"] == sum("fox" in line or "naïve" in line for line in lines)


def test_characters_that_are_spelt_in_bytes_are_counted(tmp_path: Path) -> None:
    """Of 90 characters 30 have no id and three bytes each, so that three of five tokens are parts; none is unknown."""
    path = tmp_path / "learn.txt"
    path.write_text("ab" * 100)
    run("train", f"data.path={path}", "--tokenizer", "char", "--out", tmp_path / "char")
    text = tmp_path / "text.txt"
    text.write_text("ab龘" * 30, encoding="utf-8")
    counts = inspected(tmp_path / "char", f"data.path={text}")["texts"]
    assert counts["tokens"] == 30 * 5
    assert counts["share_of_parts_of_characters"] == pytest.approx(3 / 5)
    assert counts["share_of_unknown"] == 0


def test_what_does_not_come_back_is_shown(tmp_path: Path) -> None:
    """A tokenizer that lowers case and knows few letters: losses, unknown tokens and the place of the first."""
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "fox": 1, "a": 2}, unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<unk>"])
    library.save(str(tmp_path / "tokenizer.json"))
    text = tmp_path / "text.txt"
    text.write_text("a fox\n\n\n\na dog\n")
    counts = inspected(tmp_path / "tokenizer.json", f"data.path={text}")["texts"]
    assert counts["share_of_unknown"] == pytest.approx(1 / 4)
    assert counts["round_trip"]["lost"] >= 1
    assert "dog" in counts["round_trip"]["example"]["text"] or "\n" in counts["round_trip"]["example"]["text"]
    assert "do not come back" in run("inspect", tmp_path / "tokenizer.json", f"data.path={text}")


def test_normal_forms_are_no_loss(trained: Path, tmp_path: Path) -> None:
    """A text that comes back in NFC is counted apart."""
    text = tmp_path / "text.txt"
    text.write_text("cafe\u0301\n", encoding="utf-8")
    assert inspected(trained, f"data.path={text}")["texts"]["round_trip"]["normalised"] == 1


def test_no_more_is_read_than_asked_for(trained: Path, corpus: Path) -> None:
    """The first characters, and not one more."""
    assert inspected(trained, f"data.path={corpus}", "--characters", 1000)["texts"]["characters"] == 1000


def test_a_text_is_shown_in_its_pieces(trained: Path) -> None:
    """Pieces are the text, their ids the tokenizer's; bytes of a character stand together; no control codes."""
    text = "The fox 龘\n\x1b[2J😀"
    pieces = inspected(trained, "--text", text)["pieces"]
    assert "".join(piece for piece, _ in pieces) == text
    assert [id_ for _, ids in pieces for id_ in ids] == load_tokenizer(trained, Registry()).encode(text)
    assert "The" in [piece for piece, _ in pieces]
    assert [len(ids) for piece, ids in pieces if "龘" in piece] == [3]
    shown = run("inspect", trained, "--text", text)
    assert "The| fox|" in shown
    assert "\x1b" not in shown.replace("\x1b[0m", "")


def test_a_run_and_a_model_folder_are_read(trained: Path, tmp_path: Path) -> None:
    """PATH may be what holds a `tokenizer` folder, as a run's does."""
    (tmp_path / "tokenizer").symlink_to(trained)
    assert inspected(tmp_path)["vocab_size"] == inspected(trained)["vocab_size"]
    assert inspected(trained / "tokenizer.json")["longest"] == inspected(trained)["longest"]
