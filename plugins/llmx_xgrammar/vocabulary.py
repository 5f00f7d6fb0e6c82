"""The bytes that each token of a tokenizer spells."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.errors import RecipeError

if TYPE_CHECKING:
    from llmx.protocols import Tokenizer

FILE = "tokenizer.json"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "\u2581"
"""What stands for a space in the pieces of sentencepiece."""
MARKED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that byte-level BPE writes as the character of that number; the others follow from 256 on (GPT-2)."""


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each id; none for a special token and for an id without a token.

    Raises:
        RecipeError: the tokenizer writes no tokenizer.json, which says them.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        path = Path(folder) / FILE
        if not path.is_file():
            raise RecipeError(f"json-schema: the model's tokenizer writes no {FILE}: choose another sampler")
        form = json.loads(path.read_text(encoding="utf-8"))
    spelled = [b""] * tokenizer.vocab_size
    spell = _speller(form)
    for token, id_ in _ids(form["model"]["vocab"]).items():
        spelled[id_] = spell(token)
    for added in form.get("added_tokens") or ():  # told as they are; those marked as special have no text
        spelled[added["id"]] = b"" if added["special"] else added["content"].encode()
    return spelled


def _ids(vocabulary: Any) -> Mapping[str, int]:
    """Return the ids of a vocabulary, which a Unigram model has as a list of pieces with scores."""
    if isinstance(vocabulary, Mapping):
        return vocabulary
    return {piece: id_ for id_, (piece, _) in enumerate(vocabulary)}


def _speller(form: Mapping[str, Any]) -> Callable[[str], bytes]:
    kinds = json.dumps([form.get("decoder"), form.get("pre_tokenizer")])
    if '"ByteLevel"' in kinds:
        others = [byte for byte in range(256) if byte not in MARKED]
        byte_of = {chr(byte): byte for byte in MARKED} | {chr(256 + n): byte for n, byte in enumerate(others)}
        return lambda token: bytes(byte_of[each] for each in token)
    spaced = SPACE in json.dumps(form.get("decoder"), ensure_ascii=False) or '"Metaspace"' in kinds
    fallback = bool(form["model"].get("byte_fallback"))

    def spell(token: str) -> bytes:
        byte = BYTE.fullmatch(token) if fallback else None
        if byte is not None:
            return bytes([int(byte[1], 16)])
        return (token.replace(SPACE, " ") if spaced else token).encode()

    return spell
