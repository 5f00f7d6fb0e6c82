"""Log-probabilities as chats and as completions tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.generate.request import Token
    from llmx.protocols import Tokenizer

LEAST = -9999.0
"""What OpenAI tells of a token that cannot come: JSON has no infinity."""


class Telling:
    """Which tokens of one answer may be told: none before its text is shown, and none that lies in a stop string.

    Args:
        stop_ids: tokens that end an answer and have no place in its text.
    """

    def __init__(self, stop_ids: frozenset[int]) -> None:
        self._stop_ids = stop_ids
        self._held: list[tuple[int, Token]] = []
        self._spelled = self._shown = 0

    def feed(self, tokens: Sequence[Token], *, ended: bool) -> list[tuple[int, Token]]:
        """Return those that may be told now, each with the character of the text at which it begins."""
        for token in tokens:
            self._held.append((self._spelled, token))
            self._spelled = token.spelled
            self._shown += len(token.text)
        if ended:
            cut = self._spelled > self._shown  # by a stop string
            free = [each for each in self._held if not cut or each[0] < self._shown]
            self._held = []
        else:  # a part of a character waits for the token that completes it
            more = any(token.text for token in tokens)
            shown = [n for n, (begin, each) in enumerate(self._held, 1) if more and begin < each.spelled <= self._shown]
            count = max(shown, default=0)
            free, self._held = self._held[:count], self._held[count:]
        return [each for each in free if each[1].id not in self._stop_ids]


class Spelling:
    """What a token spells within a text: some tokenizers drop the space before a word that begins one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._before = list(tokenizer.encode("a")[-1:])
        self._cut = len(tokenizer.decode(self._before))

    def __call__(self, token: int, begin: int) -> str:
        """Return the text of a token that begins at a character of an answer."""
        return self._decode([*self._before, token])[self._cut :] if begin else self._decode([token])


def chat_logprobs(placed: Sequence[tuple[int, Token]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return `logprobs` of a chat's choice, of tokens with the characters they begin at."""
    told, spell = [], Spelling(tokenizer)
    for begin, token in placed:
        top = [_told(spell(id_, begin), value) for id_, value in token.top]
        told.append({**_told(spell(token.id, begin), token.logprob), "top_logprobs": top})
    return {"content": told, "refusal": None}


def _told(text: str, logprob: float | None) -> dict[str, Any]:
    # a part of a character has bytes that a tokenizer's text does not tell
    return {"token": text, "logprob": _finite(logprob), "bytes": None if "\ufffd" in text else list(text.encode())}


def text_logprobs(placed: Sequence[tuple[int, Token]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return `logprobs` of a completion's choice, of tokens with the characters they begin at."""
    spell = Spelling(tokenizer)
    return {
        "tokens": [spell(token.id, begin) for begin, token in placed],
        "token_logprobs": [_finite(token.logprob) for _, token in placed],
        "top_logprobs": [
            {spell(id_, begin): _finite(value) for id_, value in reversed(token.top)} for begin, token in placed
        ],
        "text_offset": [begin for begin, _ in placed],
    }


def _finite(logprob: float | None) -> float:
    return LEAST if logprob is None else max(LEAST, logprob)
