"""Who is held out: whole documents by their content, or the ends of few texts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx.data import split
from llmx.data.split import Split, fraction, split_over
from llmx.protocols import Document, Message


def documents(count: int, words: int = 20) -> list[Document]:
    return [Document(" ".join(f"w{n}x{i}" for i in range(words)), f"{n}") for n in range(count)]


def chats(count: int) -> list[Document]:
    return [Document("", f"{n}", (Message("user", f"question {n}"), Message("assistant", "yes"))) for n in range(count)]


@given(st.integers(20, 400), st.floats(0.05, 0.5), st.sampled_from([documents, chats]))
@settings(max_examples=30)
def test_every_document_is_in_one_split_and_both_have_some(count: int, held_out: float, make) -> None:  # type: ignore[no-untyped-def]
    """Nothing is lost, doubled, changed or in both, whatever the corpus and the share."""
    dealt = list(Split(held_out)(make(count)))
    assert [document for _, document in dealt] == make(count)
    assert {name for name, _ in dealt} == {"train", "val"}


def test_a_document_keeps_its_split_when_others_come() -> None:
    """The hash of its content decides, not its place, its origin or its neighbours; for texts and chats alike."""
    few, many = documents(500) + chats(500), chats(1000) + documents(1000)
    before = {document: name for name, document in Split(0.05)(few)}
    after = {document: name for name, document in Split(0.05)(reversed(many))}
    assert before.items() <= after.items()
    assert 0.03 < sum(name == "val" for name in after.values()) / 2000 < 0.07
    elsewhere = [evolve(document, origin="elsewhere") for document in documents(500)]
    moved = {document.text: name for name, document in Split(0.05)(elsewhere)}
    assert moved == {document.text: name for document, name in before.items() if document.text}


def test_equal_documents_share_a_split() -> None:
    """A copy of a training document is never held out, nor one whose turns are trained on otherwise."""
    for first in (documents(100), chats(100)):
        copies = [evolve(d, messages=tuple(evolve(turn, loss=False) for turn in d.messages)) for d in first]
        dealt = [name for name, _ in Split(0.2)(first + copies)]
        assert dealt[:100] == dealt[100:]


def test_what_a_chat_says_decides() -> None:
    """Role, content, reasoning and calls of a turn each change the hash; half a surrogate pair is no obstacle."""
    turn = Message("assistant", "yes", reasoning="so", tool_calls=({"name": "f", "arguments": {"x": 1, "y": 2}},))
    calls = ({"name": "f", "arguments": {"x": 1, "y": 3}},)
    others = [{"role": "user"}, {"content": "yes\ud800"}, {"reasoning": ""}, {"tool_calls": calls}]
    hashes = {split.fraction(Document("", "", (evolve(turn, **other),))) for other in [{}, *others]}
    assert len(hashes) == 5
    in_other_order = evolve(turn, tool_calls=({"arguments": {"y": 2, "x": 1}, "name": "f"},))
    assert split.fraction(Document("", "", (in_other_order,))) in hashes


def test_the_end_of_few_texts_is_held_out() -> None:
    """One long text gives its last part, cut where a line ends, and nothing is lost."""
    text = "\n".join(f"line {i} of the text" for i in range(1000))
    (first, train), (second, val) = Split(0.05)([Document(text, "t")])
    assert (first, second) == ("train", "val")
    assert train.text + val.text == text
    assert train.text.endswith("\n")
    assert 0.03 < len(val.text) / len(text) < 0.05
    assert train.origin == val.origin == "t"


def test_a_text_of_one_paragraph_is_cut_all_the_same() -> None:
    """A line that never ends leaves something to hold out."""
    (_, train), (_, val) = Split(0.05)([Document("word " * 6000 + "\n", "t")])
    assert 0.03 < len(val.text) / 30_000 <= 0.05
    assert train.text + val.text == "word " * 6000 + "\n"


def test_of_few_chats_a_whole_one_is_held_out() -> None:
    """No chat is cut: of two or more one is held out, the same in any order; one alone is trained on."""
    for count in range(2, 19):
        dealt = list(Split(0.05)(chats(count)))
        assert [document for _, document in dealt] == chats(count)
        held_out = [document for name, document in dealt if name == "val"]
        assert held_out == [min(chats(count), key=split.fraction)]
        assert held_out == [document for name, document in Split(0.05)(reversed(chats(count))) if name == "val"]
    assert [name for name, _ in Split(0.05)(chats(1))] == ["train"]
    assert [name for name, _ in Split(0.05)(chats(1) * 3)] == ["train"] * 3


def test_few_texts_and_chats_together() -> None:
    """Each goes by its own rule."""
    dealt = list(Split(0.05)(documents(2, 200) + chats(3)))
    assert [name for name, document in dealt if document.text] == ["train", "val"] * 2
    assert sorted(name for name, document in dealt if document.messages) == ["train", "train", "val"]


def test_only_as_many_documents_are_held_as_are_needed() -> None:
    """A large corpus streams: with a share of 5 % some tens of documents are taken before the first is dealt."""
    taken = 0

    def stream():  # type: ignore[no-untyped-def]
        nonlocal taken
        for taken, document in enumerate(documents(2000), start=1):  # noqa: B007
            yield document

    next(Split(0.05)(stream()))
    assert 20 <= taken < 100  # 200 would be taken before the smallest hash of all is held out


def large(count: int, taken: list[int], chars: int = 1_000_000) -> Iterator[Document]:
    """Documents that exist only while they are dealt."""
    for number in range(count):
        taken.append(number)
        yield Document(f"{number} " * (chars // len(f"{number} ")), f"{number}")


def test_large_documents_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small share the first 1,000 would be taken; of a megabyte each they are 12 MB here and then no more."""
    monkeypatch.setattr(split, "HELD_CHARS", 12_000_000)
    taken: list[int] = []
    tracemalloc.start()
    dealt = Split(0.001)(large(60, taken))
    next(dealt)
    assert 12 <= len(taken) <= 14
    names = [name for name, _ in dealt]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(taken) == 60
    assert names.count("val") >= 12  # the ends of those that were looked at
    assert peak < 12_000_000 + 4_000_000


def test_large_documents_that_were_dealt_are_let_go() -> None:
    """What was looked at is not held while the rest is dealt."""
    tracemalloc.start()
    dealt = Split(0.05)(large(200, [], 100_000))
    for number, _ in enumerate(dealt):
        if number == 150:
            tracemalloc.reset_peak()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_copies_do_not_make_a_corpus_large() -> None:
    """200 equal texts are one, whose end is held out; equal chats are trained on; what differs goes by its hash."""
    dealt = list(Split(0.05)([Document("a word " * 100, "a")] * 200))
    assert [name for name, _ in dealt] == ["train", "val"] * 200
    assert [name for name, _ in Split(0.05)(chats(1) * 300)] == ["train"] * 300
    after = list(Split(0.05)([Document("a word " * 100, "a")] * 200 + documents(100)))[400:]
    assert [name for name, _ in after] == ["val" if fraction(each) <= 0.05 else "train" for each in documents(100)]


def parts(held_out: float, sources: list[list[Document]]) -> dict[str, set[tuple[str, object]]]:
    """What is dealt to each side, of all sources together."""
    both = split_over(held_out, sources)
    dealt = [each for source in sources for each in both(source)]
    return {side: {(d.text, d.messages) for name, d in dealt if name == side} for side in ("train", "val")}


def test_what_one_source_holds_out_no_other_trains_on() -> None:
    """The chat, or the end of the text, that a small source holds out is held out in a large one too."""
    texts, lowest = documents(2, 200), min(chats(3), key=fraction)
    for sources in ([chats(3), texts, chats(500) + texts], [chats(500) + texts, texts, chats(3)]):
        found = parts(0.05, sources)
        assert not found["train"] & found["val"]
        assert ("", lowest.messages) in found["val"]
        assert not found["train"] & {(text.text, ()) for text in texts}
        assert len([text for text, _ in found["val"] if text]) == 2


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=60), min_size=2, max_size=4),
    st.floats(0.02, 0.5),
    st.sampled_from([documents, chats]),
)
@settings(max_examples=60)
def test_sources_deal_alike(numbers: list[list[int]], held_out: float, make) -> None:  # type: ignore[no-untyped-def]
    """Whatever sources share: nothing is on both sides, each has something to train on, and their order is free."""
    known = make(41)
    sources = [[known[number] for number in each] for each in numbers]
    found, both = parts(held_out, sources), split_over(held_out, sources)
    assert not found["train"] & found["val"]
    assert all("train" in {name for name, _ in both(source)} for source in sources)
    assert both == split_over(held_out, sources[::-1])


def test_no_share_holds_out_nothing() -> None:
    """`data.held_out = 0` trains on everything."""
    assert {name for name, _ in Split(0)(documents(50) + chats(50))} == {"train"}


def test_cut_point_never_leaves_the_text() -> None:
    """Without lines or words the share itself is the cut."""
    assert split.cut_point("a" * 100, 0.5) == 50
    assert split.cut_point("", 0.5) == 0
