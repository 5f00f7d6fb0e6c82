"""Tokenizers: char, sentencepiece and bpe learn from the training texts, hf reads a finished tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from attrs import field, frozen, validators

from llmx import Component, hookimpl

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
"""The special tokens of the tokenizers that are learned here; their ids are 0, 1, 2, 3."""
PAD, UNK, BOS, EOS = range(4)
BASE_SIZE = len(SPECIALS) + 256
"""Ids that exist before anything is learned: the specials and one for each byte."""


def _names(_: Any, attribute: Any, value: tuple[str, ...]) -> None:
    for name in value:
        if not name or name != name.strip() or value.count(name) > 1:
            raise ValueError(f"{attribute.name!r} must be different names without white space around them: {name!r}")


@frozen
class CharOptions:
    vocab_size: int | None = field(
        default=None, validator=validators.optional(validators.ge(BASE_SIZE)), metadata={"unit": "ids"}
    )
    """Most ids, the special ones and the 256 bytes included; the most frequent characters get the others and the
    rest is spelt in bytes. Without it every character that reaches min_freq has an id. 260 leaves bytes alone."""
    min_freq: int = field(default=1, validator=validators.ge(1), metadata={"unit": "occurrences"})
    """Characters seen fewer times than this in the training documents are spelt in bytes. 1 keeps all that were
    seen; more saves rows of the embedding that could hardly be learned, as for rare Chinese characters."""
    special_tokens: tuple[str, ...] = field(default=(), validator=_names)
    """Names that are one id each besides `<pad>`, `<unk>`, `<bos>` and `<eos>`, and are never made from text. Without
    it none: a run adds those of its chat template."""


@frozen
class SentencePieceOptions:
    vocab_size: int = field(default=4096, validator=validators.gt(BASE_SIZE), metadata={"unit": "ids"})
    """Most ids, the special ones and the 256 bytes included; a small corpus gives fewer. 4096 suits corpora of some
    megabytes and models of some millions of parameters, whose embedding would outweigh the rest with more."""
    character_coverage: float = field(
        default=0.9995, validator=[validators.gt(0.0), validators.le(1.0)], metadata={"unit": "fraction of characters"}
    )
    """Share of the characters of the text learned from that get a piece of their own; the rarest, beyond it, are
    spelt in bytes. 0.9995 is what sentencepiece advises for large alphabets such as Chinese."""
    sample_bytes: int = field(default=50_000_000, validator=validators.ge(10_000))
    """Most bytes of the training texts that are learned from; a longer corpus is thinned by lines, evenly and always
    alike. 50 MB hold the frequent words of any language and keep memory and minutes small."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    """Algorithm that chooses pieces: bpe joins frequent neighbours, unigram keeps what makes the texts most probable.
    bpe is what most published models have, and learns several times faster."""
    special_tokens: tuple[str, ...] = field(default=(), validator=_names)
    """Names that are one id each besides `<pad>`, `<unk>`, `<bos>` and `<eos>`, and are never made from text. Without
    it none: a run adds those of its chat template."""


@frozen
class BpeOptions:
    vocab_size: int = field(default=8192, validator=validators.gt(BASE_SIZE), metadata={"unit": "ids"})
    """Most ids, the special ones and the 256 bytes included; a small corpus gives fewer. 8192 is what a model of some
    ten million parameters has use for; published models have 50,000 to 250,000."""
    min_frequency: int = field(default=2, validator=validators.ge(1), metadata={"unit": "occurrences"})
    """Pairs seen fewer times than this are not joined. 2 leaves out what was seen once, which is chance."""
    sample_bytes: int = field(default=50_000_000, validator=validators.ge(10_000))
    """Most bytes of the training texts that are learned from; a longer corpus is thinned by passages, evenly and
    always alike. 50 MB hold the frequent words of any language and keep memory and minutes small."""
    special_tokens: tuple[str, ...] = field(default=(), validator=_names)
    """Names that are one id each besides `<pad>`, `<unk>`, `<bos>` and `<eos>`, and are never made from text. Without
    it none: a run adds those of its chat template."""


@frozen
class HfOptions:
    path: str = field(validator=validators.min_len(1))
    """A tokenizer.json, or a folder that holds one, such as a model from the Hugging Face Hub; `~` is the home folder.
    The files beside it say which tokens begin and end a text."""


@hookimpl
def llmx_tokenizers() -> Iterable[Component]:
    return [
        Component(
            name="char",
            target="llmx_tokenizers.char:CharTokenizer",
            options=CharOptions,
            summary="one id for each character, bytes for the rare ones",
        ),
        Component(
            name="sentencepiece",
            target="llmx_tokenizers.subwords:SentencePieceTokenizer",
            options=SentencePieceOptions,
            summary="subwords learned from the training texts, bytes for the rest; lossless",
        ),
        Component(
            name="bpe",
            target="llmx_tokenizers.bytepairs:BpeTokenizer",
            options=BpeOptions,
            summary="byte-level BPE learned from the training texts, split as Qwen does; lossless up to NFC",
        ),
        Component(
            name="hf",
            target="llmx_tokenizers.hf:HfTokenizer",
            options=HfOptions,
            summary="the tokenizer.json of a published model, as it is",
        ),
    ]
