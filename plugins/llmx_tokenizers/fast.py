"""What the tokenizers have in common that run on the `tokenizers` library, and the files other tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from llmx_tokenizers import BOS, SPECIALS

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
GENERIC = "PreTrainedTokenizerFast"
"""The class of transformers that does what tokenizer.json says; those of a model family add rules of their own."""


class FastTokenizer:
    """Text to ids and back with a `tokenizers.Tokenizer`; it keeps `llmx.protocols.Tokenizer` but for `save`."""

    def __init__(self, tokenizer: Tokenizer, bos_id: int | None, eos_id: int | None) -> None:
        tokenizer.encode_special_tokens = True  # "<eos>" in a text is five characters
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone; a special token is never made from text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text; the library uses every core."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens give nothing, a broken UTF-8 sequence gives U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def base_vocabulary() -> dict[str, int]:
    """Return the specials and the 256 byte tokens, `<0x00>` to `<0xFF>`, with their ids."""
    return {token: index for index, token in enumerate((*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))))}


def add_specials(tokenizer: Tokenizer) -> None:
    """Mark the specials of a vocabulary as such; other tools then begin a text with `<bos>`, as training does."""
    tokenizer.add_special_tokens(list(SPECIALS))
    bos = SPECIALS[BOS]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, BOS)]
    )


def write_config(folder: Path) -> None:
    """Write what transformers needs beside a vocabulary with our specials."""
    names = {f"{token.strip('<>')}_token": token for token in SPECIALS}
    settings = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    write_json(folder / CONFIG, {"tokenizer_class": GENERIC, **names, **settings})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file as people read it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
