"""Which tokens' log-probabilities are told, where tokens are parts of characters or span the ends of stop strings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from llmx.generate.request import Token
from llmx.generate.text import TextStream
from llmx_serve.logprobs import Telling, chat_logprobs, text_logprobs

PIECES = [b"a", b"b", b"ab", b"ba", b"c", b"\xe6", b"\x88", b"\x91", b"\x88\x91a", "我".encode(), "b我".encode(), b""]
END = len(PIECES)


class Bytes:
    """Tokens that are bytes, as those of a byte-level BPE."""

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(PIECES[each] for each in ids if each != END).decode("utf-8", "replace")


def tokens_of(ids: Sequence[int], stop: Sequence[str]) -> list[Token]:
    """Return tokens as an engine makes them."""
    stream, found = TextStream(Bytes(), stop), []  # type: ignore[arg-type]
    for number, each in enumerate(ids):
        text = "" if each == END else stream.feed(each)
        last = stream.stopped or each == END or number == len(ids) - 1
        text += stream.finish() if last else ""
        found.append(Token(each, text, spelled=stream.spelled))
        if last:
            break
    return found


@pytest.mark.parametrize("seed", range(100))
def test_no_token_is_told_before_its_text(seed: int) -> None:
    """A token at a time or all at once the same are told: those that begin in the text; each once it is shown."""
    chance = random.Random(seed)
    stop = [chance.choice(["ab", "我", "ba我", "我我b", "aba", "c"]) for _ in range(chance.randrange(3))]
    ids = [chance.randrange(END) for _ in range(12)] + [END] * chance.randrange(2)
    tokens = tokens_of(ids, stop)
    text = "".join(token.text for token in tokens)
    whole = Telling(frozenset({END})).feed(tokens, ended=True)
    telling, told, shown = Telling(frozenset({END})), list[Any](), 0
    for number, token in enumerate(tokens, 1):
        shown += len(token.text)
        told += telling.feed([token], ended=number == len(tokens))
        assert number == len(tokens) or all(each.spelled <= shown for _, each in told)
    assert told == whole
    spelled = Bytes().decode([token.id for token in tokens])
    if len(spelled) > len(text):
        assert spelled.startswith(text)
        assert [token for _, token in told] == [t for t, n in begins(tokens) if n < len(text) and t.id != END]
    else:
        assert [token for _, token in told] == [token for token in tokens if token.id != END]


def begins(tokens: Sequence[Token]) -> list[tuple[Token, int]]:
    """Return each token with the number of whole characters before it."""
    ids = [token.id for token in tokens]
    return [(token, len(Bytes().decode(ids[:n]).rstrip("\ufffd"))) for n, token in enumerate(tokens)]


class Words:
    """Tokens as those of SentencePiece, whose decoder drops the space before the first word of a text."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        pieces = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "▁b": 5}
        self.backend = Tokenizer(models.BPE(pieces, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
        self.backend.pre_tokenizer = pre_tokenizers.Metaspace()
        self.backend.decoder = decoders.Metaspace()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.backend.decode(list(ids))
        return text


def test_tokens_keep_their_spaces() -> None:
    """The tokens that are told are the text: each spells what it adds, and so does each that might have come."""
    words: Any = Words()
    stream, top = TextStream(words), ((5, -1.0), (3, -2.0))
    tokens = [Token(id_, stream.feed(id_), -1.0, top, stream.spelled) for id_ in words.encode("a b aa")]
    placed = Telling(frozenset()).feed(tokens, ended=True)
    chat, text = chat_logprobs(placed, words)["content"], text_logprobs(placed, words)
    assert [each["token"] for each in chat] == text["tokens"] == ["a", " b", " a", "a"]
    assert [bytes(each["bytes"]).decode() for each in chat] == text["tokens"]
    assert [[top["token"] for top in each["top_logprobs"]] for each in chat[1:]] == [[" b", "b"]] * 3
    assert text["top_logprobs"][1] == {" b": -1.0, "b": -2.0}
    assert text["text_offset"] == [0, 1, 3, 5]
