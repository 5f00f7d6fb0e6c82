"""Which tokens' log-probabilities are told, where tokens are parts of characters or span the ends of stop strings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from llmx.generate.request import Token
from llmx.generate.text import TextStream
from llmx_serve.logprobs import Telling

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
