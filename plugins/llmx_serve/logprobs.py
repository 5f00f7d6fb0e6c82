"""Log-probabilities as chats and as completions tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.generate.request import Token
    from llmx.protocols import Tokenizer

LEAST = -9999.0
"""What OpenAI tells of a token that cannot come: JSON has no infinity."""


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return `logprobs` of a chat's choice."""
    told = []
    for token in tokens:
        top = [_spelled(tokenizer, id_, value) for id_, value in token.top]
        told.append({**_spelled(tokenizer, token.id, token.logprob), "top_logprobs": top})
    return {"content": told, "refusal": None}


def _spelled(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    text = tokenizer.decode([token])
    # a part of a character has bytes that a tokenizer's text does not tell
    return {"token": text, "logprob": _finite(logprob), "bytes": None if "\ufffd" in text else list(text.encode())}


def text_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """Return `logprobs` of a completion's choice, whose first token stands at the character `offset`."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [tokenizer.decode([token.id]) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {tokenizer.decode([id_]): _finite(value) for id_, value in reversed(token.top)} for token in tokens
        ],
        "text_offset": offsets,
    }


def _finite(logprob: float | None) -> float:
    return LEAST if logprob is None else max(LEAST, logprob)


def told(tokens: Sequence[Token], stop_ids: frozenset[int]) -> list[Token]:
    """Return the tokens that have a place in the text: all but one that ends it."""
    return [token for token in tokens if token.id not in stop_ids]
