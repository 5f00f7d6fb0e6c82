"""`llmx data inspect`: figures against a plain loop over the documents, samples, and what is said of them."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmx.api import layers_of
from llmx.data.lengths import Lengths
from llmx.data.split import Split
from llmx.errors import RecipeError
from llmx.inspect import Corpus, to_text, write_page
from llmx.inspect.figures import Sample, SourceFigures, Span
from llmx.inspect.page import histogram, render
from llmx.inspect.recipe import inspect_recipe
from llmx.inspect.scripts import NAMES, count_scripts
from llmx.recipe import Recipe

LENGTH = 64


def chat(*turns: str) -> str:
    """Return a record of turns, of which the user says the first."""
    roles = ("user", "assistant") * len(turns)
    return json.dumps({"messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Chats, of which some are equal, long, or without an answer, and texts."""
    folder = tmp_path_factory.mktemp("corpus")
    chats = [chat(f"Ask {n}", f"Answer {n} 好") for n in range(40)]
    chats += [chats[3]] * 2 + [chats[5]]
    chats += [chat(f"Only a question {n}") for n in range(4)]
    chats += [chat(f"Long {n}", "word " * (30 + n)) for n in range(5)]
    chats += [chat("question " * 20 + str(n), "An answer that no row holds") for n in range(3)]
    (folder / "chats.jsonl").write_text("\n".join(chats), encoding="utf-8")
    texts = [f"Text {n}, " + "some words " * n for n in range(30)]
    (folder / "texts.txt").write_text("\n##\n".join(texts), encoding="utf-8")
    values = {
        "model": {"name": "tinyllm", "preset": "nano"},
        "tokenizer": "char",
        "data": {
            "sources": [
                {"path": str(folder / "chats.jsonl"), "weight": 3.0},
                {"path": str(folder / "texts.txt"), "separator": "\n##\n"},
            ],
            "sequence_length": LENGTH,
            "held_out": 0.1,
        },
    }
    return Recipe.resolve(layers_of(values))


@pytest.fixture(scope="module")
def corpus(recipe: Recipe) -> Corpus:
    """The figures of that recipe, with six samples."""
    return inspect_recipe(recipe, 6)


def encoded(recipe: Recipe) -> list[list[tuple[str, Any, Any]]]:
    """Return (split, document, encoded) of every document of each source, encoded one at a time."""
    from llmx.corpora import encoder_of, new_corpora

    corpora = new_corpora(recipe)
    encoder = encoder_of(recipe, corpora.tokenizer, corpora.template)
    found = []
    for source in recipe.sources:
        documents = list(Split(recipe.data.held_out)(source.part.build()))
        found.append([(split, document, encoder([document])[0]) for split, document in documents])
    return found


def test_figures_are_those_of_a_plain_loop(recipe: Recipe, corpus: Corpus) -> None:
    """Documents, characters, tokens, what is trained on, duplicates, what is left out and what is cut off."""
    assert [source.label for source in corpus.sources] == ["chats", "texts"]
    for source, rows in zip(corpus.sources, encoded(recipe), strict=True):
        train = [(document, each) for split, document, each in rows if split == "train"]
        contents = ["\0".join([d.text, *(m.content for m in d.messages)]) for _, d, _ in rows]
        marks = [[True] * len(e.ids) if e.trained is None else e.trained.tolist() for _, _, e in rows]
        assert source.documents == len(rows)
        assert source.held_out_documents == len(rows) - len(train)
        assert source.duplicates == sum(times - 1 for times in Counter(contents).values())
        assert source.tokens.total == sum(len(e.ids) for *_, e in rows)
        assert source.tokens.longest == max(len(e.ids) for *_, e in rows)
        assert source.labels == sum(len(e.ids) - 1 for *_, e in rows)
        assert source.predicted == sum(sum(each[1:]) for each in marks)
        if source.label == "texts":
            assert source.characters.total == sum(len(d.text) for _, d, _ in rows)
            assert source.chats == 0
            continue
        assert source.chats == len(rows)
        assert source.duplicates == 3
        within = [sum(e.trained.tolist()[1 : LENGTH + 1]) for _, e in train]
        assert source.rows["left_out_documents"] == within.count(0) > 4
        longer = [
            len(e.ids) - 1 - LENGTH for (_, e), n in zip(train, within, strict=True) if n and len(e.ids) - 1 > LENGTH
        ]
        assert (source.rows["truncated_documents"], source.rows["truncated_tokens"]) == (len(longer), sum(longer))
        assert longer
    assert corpus.tokens == sum(source.tokens.total for source in corpus.sources)
    assert corpus.rows["rows"] == sum(source.rows["rows"] for source in corpus.sources)


def test_it_says_what_goes_wrong(corpus: Corpus) -> None:
    """What is left out, cut off and double is a remark; the text names it, and colours only what is trained on."""
    remarks = "\n".join(corpus.remarks())
    left = corpus.sources[0].rows["left_out_documents"]
    assert f"chats: {left} of " in remarks
    assert "are left out" in remarks
    assert "are never read; a larger data.sequence_length reads more of them" in remarks
    assert "3 of 55 documents are exact duplicates" in remarks
    text = to_text(corpus)
    assert remarks.splitlines()[0] in text
    assert "source  share" in text
    assert "\x1b[32m" in text
    assert "<|im_start|>" in text
    plain = json.loads(json.dumps(corpus.to_json()))
    assert plain["tokens"] == corpus.tokens
    assert plain["sources"][0]["rows"]["left_out_documents"] == left
    assert plain["sources"][1]["tokens"]["sum"] == corpus.sources[1].tokens.total


def test_samples_show_what_is_trained_on(recipe: Recipe, corpus: Corpus) -> None:
    """Trained spans spell the answers and the end of their turns; the choice is always the same."""
    assert [sample.source for sample in corpus.samples] == ["chats"] * 3 + ["texts"] * 3
    documents = {document.origin: document for rows in encoded(recipe) for _, document, _ in rows}
    for sample in corpus.samples:
        document = documents[sample.origin]
        trained = "".join(span.text for span in sample.spans if span.trained)
        said = "".join(m.content + "<|im_end|>" for m in document.messages if m.role == "assistant")
        if document.messages:
            assert trained == said
            assert "".join(span.text for span in sample.spans).startswith("<|im_start|>user\n")
            assert sample.trained < sample.tokens
        else:
            assert trained.removeprefix("<bos>").removesuffix("<eos>") == document.text
            assert sample.plain
        if document.messages and sample.tokens > LENGTH + 1:
            assert sample.spans[-1].beyond
    assert inspect_recipe(recipe, 6).samples == corpus.samples
    assert len(inspect_recipe(recipe, 1).samples) == 1


def test_what_is_behind_the_row_is_marked() -> None:
    """The first token behind the row and its label begins another span, wherever that is."""
    from llmx.inspect.spans import spans_of

    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    ids = [1, *map(ord, "abcdef"), 2]
    marks = [False, False, True, True, True, True, False, True]
    found = spans_of(ids, marks, 4, {1: "<s>", 2: "</s>"}, Letters())  # type: ignore[arg-type]
    assert found == [
        Span("<s>", True, False, False),
        Span("a", False, False, False),
        Span("bc", False, True, False),
        Span("de", False, True, True),
        Span("f", False, False, True),
        Span("</s>", True, True, True),
    ]


def test_scripts_are_those_of_the_names_of_characters() -> None:
    """Letters of every block are counted for the script that Unicode's own names say."""
    assert count_scripts("Añ 中文 かな カナ 한글 Привет 12 ١ - ﾊ Ａ") == {
        "Latin": 3,
        "Chinese": 2,
        "Kana": 5,
        "Hangul": 2,
        "Cyrillic": 6,
        "digits": 2,
        "Arabic": 1,
        "other": 1,
    }
    assert set(count_scripts("".join(map(chr, range(0x20, 0x3000))))) <= set(NAMES)


SCRIPTS = {
    "CJK": "Chinese",
    **{each.upper(): each for each in ("Latin", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew", "Thai")},
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), "Kana"),
    **dict.fromkeys(("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU"), "Indic"),
    **dict.fromkeys(("KANNADA", "MALAYALAM", "SINHALA"), "Indic"),
}
"""The script of a letter by the first word of its name, half or full width aside."""
EVERYDAY = (
    *[(0x41, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x5D0, 0x5EA), (0x620, 0x6FF), (0x900, 0xDFF), (0xE00, 0xE7F)],
    *[(0x1E00, 0x1EFF), (0x3041, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF21, 0xFF9F)],
    (0x20000, 0x2FFFF),
)
"""Blocks of which no letter may be missed."""


def test_no_letter_is_of_another_script() -> None:
    """Each letter there is counts for the script that its name says; only in rare blocks it may be one of others."""
    letters: dict[str, list[str]] = {}
    for character in filter(str.isalpha, map(chr, range(0x32400))):
        words = re.split("[ -]", re.sub("^(FULL|HALF)WIDTH ", "", unicodedata.name(character, "NONE")))
        letters.setdefault(words[0], []).append(character)
    assert letters.keys() > SCRIPTS.keys()
    for word, found in letters.items():
        script = SCRIPTS.get(word, "other")
        assert count_scripts("".join(found)).keys() <= {script, "other"}, word
        everyday = [each for each in found if any(low <= ord(each) <= high for low, high in EVERYDAY)]
        assert set(count_scripts("".join(everyday))) <= {script}, word


# --- the page -------------------------------------------------------------------------------------------------------

EVIL = "</script><script>alert(1)</script><img src=https://example.com/x onerror=alert(1)>"


def made(**changes: Any) -> SourceFigures:
    """Return figures of a source that nothing was read for."""
    values: dict[str, Any] = {
        "label": "one",
        "weight": 1.0,
        "documents": 6,
        "held_out_documents": 1,
        "chats": 2,
        "duplicates": 1,
        "characters": Lengths.of([10, 20, 300]),
        "tokens": Lengths.of([5, 5, 5, 6, 70, 900]),
        "held_out_tokens": 5,
        "labels": 985,
        "predicted": 500,
        "scripts": {"Latin": 9, "other": 1},
        "rows": {"rows": 4, "positions": 400, "padding": 100, "documents": 5, "truncated_tokens": 50},
    }
    return SourceFigures(**(values | changes))


def evil_corpus() -> Corpus:
    """Figures in which every text is hostile."""
    sample = Sample(EVIL, EVIL, 9, 3, 2, [Span(EVIL, True, True, False), Span(EVIL + "\ud800", False, False, True)])
    sources = [made(label=EVIL), made(label="two", scripts={"Chinese": 3})]
    return Corpus(EVIL, 100, "auto", [EVIL], sources, {"left_out_documents": 2}, [sample])


class Tags(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inside.setdefault(self.tags[-1][0], data)


def test_the_page_holds_only_what_it_should() -> None:
    """What documents say is text; no resource is named; the policy allows its own style and script alone."""
    found = Tags(render(evil_corpus()))
    names = Counter(tag for tag, _ in found.tags)
    assert (names["script"], names["style"], names["img"]) == (1, 1, 0)
    assert not [each for _, each in found.tags if {"src", "href", "style", "onclick", "onerror"} & each.keys()]
    (policy,) = [each["content"] for _, each in found.tags if each.get("http-equiv") == "Content-Security-Policy"]
    for kind, name in (("style", "style-src"), ("script", "script-src")):
        digest = base64.b64encode(hashlib.sha256(found.inside[kind].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none';")


def test_bars_are_as_high_as_their_counts() -> None:
    """Heights are to each other as the counts, stacked by source, and each document is in one bar."""
    corpus = evil_corpus()
    chart = histogram(corpus, "tokens", "Tokens")
    heights = {bar.words.partition(" tokens")[0]: [float(height) for _, _, height in bar.parts] for bar in chart.bars}
    assert heights["5"] == pytest.approx([3 * heights["6"][0]] * 2, rel=0.01)
    total = sum(height for each in heights.values() for height in each)
    assert total / heights["6"][0] == pytest.approx(12, rel=0.01)
    for bar in chart.bars:
        tops = [float(top) for _, top, _ in bar.parts]
        assert tops[0] + float(bar.parts[0][2]) == pytest.approx(1000, abs=0.2)
        assert tops[1] + float(bar.parts[1][2]) == pytest.approx(tops[0], abs=0.2)
    left = [float(bar.x) for bar in chart.bars]
    assert left == sorted(left)
    before = [bar for bar in chart.bars if int(re.findall(r"[\d,]+(?= tokens)", bar.words)[0].replace(",", "")) < 100]
    assert float(before[-1].x) < float(chart.row or 0) < left[-1]


def test_the_command(tmp_path: Path, llmx_cli: Any) -> None:
    """Text and the page come from one recipe; a page that is not ours is not replaced."""
    corpus = tmp_path / "in.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": f"Text number {n} of a few. " * 9}) for n in range(30)))
    given = [f"data.path={corpus}", "--tokenizer", "char", "model.preset=nano", "data.sequence_length=32"]
    done = llmx_cli("data", "inspect", *given, "--html", tmp_path / "page.html", "--samples", 1)
    assert done.returncode == 0, done.stderr
    assert "30 documents" in done.stdout
    assert "\x1b[" not in done.stdout
    assert 'content="llmx data inspect"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    alien = tmp_path / "mine.html"
    alien.write_text("mine")
    with pytest.raises(RecipeError, match=r"mine\.html: exists and is no"):
        write_page(evil_corpus(), alien)
    assert alien.read_text() == "mine"
