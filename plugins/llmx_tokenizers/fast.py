"""What the tokenizers have in common that run on the `tokenizers` library, and the files other tools read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from llmx.errors import RecipeError
from llmx_tokenizers import BOS, EOS, SPECIALS
from llmx_tokenizers.bytelevel import quick_of
from llmx_tokenizers.quick import Choice, Ids, arrays

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
GENERIC = "PreTrainedTokenizerFast"
"""The class of transformers that does what tokenizer.json says; those of a model family add rules of their own."""


def tell_fewer(wanted: int, learned: int) -> None:
    """Say on stderr, once for all ranks, that a vocabulary is smaller than the recipe allows."""
    if learned < wanted and os.environ.get("RANK", "0") == "0":
        sys.stderr.write(
            f"llmx: tokenizer: learned {learned:,} ids, for the training texts are enough for no more "
            f"(tokenizer.vocab_size = {wanted})\n"
        )


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
        self._added = {each.content: id_ for id_, each in tokenizer.get_added_tokens_decoder().items()}
        self._choose = Choice(partial(quick_of, tokenizer, self._library), self._library)

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None if there is none of that name.

        Tokens that were added to a vocabulary without being marked as special, as `<think>` to Qwen3's, are found too.
        """
        return self._added.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone; a special token is never made from text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text, on every core."""
        quick = self._choose(texts)
        return self._library(texts) if quick is None else [ids.tolist() for ids in quick(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """Return `encode` of each text as an array."""
        quick = self._choose(texts)
        return arrays(self._library(texts)) if quick is None else quick(texts)

    def encode_markup(self, text: str) -> list[int]:
        """Return the ids of `text`, in which special tokens are made where they are named."""
        ids: list[int] = self._markup.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens give nothing, a broken UTF-8 sequence gives U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _library(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def _markup(self) -> Tokenizer:
        copy = Tokenizer.from_str(self._tokenizer.to_str())  # the switch is for all threads that encode with one
        copy.encode_special_tokens = False
        return copy


class LearnedTokenizer(FastTokenizer):
    """A `tokenizers.Tokenizer` with our specials, made from the training texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, BOS, EOS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(folder / TOKENIZER)))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json for transformers."""
        self._tokenizer.save(str(folder / TOKENIZER))
        write_config(folder, list(self._added))


def specials_of(names: Sequence[str], vocab_size: int | None) -> list[str]:
    """Return our specials and those named besides.

    Raises:
        RecipeError: they and the bytes do not fit in the vocabulary.
    """
    specials = [*SPECIALS, *(name for name in names if name not in SPECIALS)]
    if vocab_size is not None and vocab_size < len(specials) + 256:
        what = f"{len(specials)} special tokens and 256 bytes"
        raise RecipeError(f"tokenizer.vocab_size = {vocab_size}: too few for {what}: set {len(specials) + 256} or more")
    return specials


def base_vocabulary(specials: Sequence[str]) -> dict[str, int]:
    """Return the specials and the 256 byte tokens, `<0x00>` to `<0xFF>`, with their ids."""
    return {token: index for index, token in enumerate((*specials, *(f"<0x{byte:02X}>" for byte in range(256))))}


def add_specials(tokenizer: Tokenizer, specials: Sequence[str]) -> None:
    """Mark the specials of a vocabulary as such; other tools then begin a text with `<bos>`, as training does."""
    tokenizer.add_special_tokens(list(specials))
    bos = SPECIALS[BOS]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, BOS)]
    )


def write_config(folder: Path, specials: Sequence[str]) -> None:
    """Write what transformers needs beside a vocabulary with our specials."""
    names = {f"{token.strip('<>')}_token": token for token in SPECIALS}
    others = {"additional_special_tokens": list(specials[len(SPECIALS) :])} if len(specials) > len(SPECIALS) else {}
    settings = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    write_json(folder / CONFIG, {"tokenizer_class": GENERIC, **names, **others, **settings})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file as people read it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
