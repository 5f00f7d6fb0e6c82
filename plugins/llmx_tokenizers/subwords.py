"""Subwords that sentencepiece learns from the training texts, with bytes for what it has no piece for."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import sentencepiece

from llmx.errors import DataError
from llmx_tokenizers import SPECIALS, SentencePieceOptions
from llmx_tokenizers.fast import specials_of, tell_fewer, write_config
from llmx_tokenizers.pieces import SPACE, quick_of, specials_in, write_fast
from llmx_tokenizers.quick import Choice, Ids, arrays, threads
from llmx_tokenizers.sampling import sample

MODEL = "tokenizer.model"
NOT_LEARNED = re.compile("[\n\0\u2581\u2585]")
"""The line end has its own piece; the others mean something to the trainer, which leaves out lines that hold them."""
LINE = 1000
"""Characters of a line that the trainer gets at a time: it leaves out lines of more than 4,192 bytes."""
TOO_FEW = re.compile(r"Vocabulary size too high .*<= (\d+)")
"""What the trainer says where the lines are too few for so many pieces, and the number they are enough for."""
FIXED = {
    **{f"{token.strip('<>')}_piece": token for token in SPECIALS},
    **{f"{token.strip('<>')}_id": index for index, token in enumerate(SPECIALS)},
    "unk_surface": "",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "user_defined_symbols": ["\n"],
    "num_threads": 4,  # not the machine's: the model file states it, and sums of floats may differ with it
    "minloglevel": 2,  # errors alone
}
"""What the trainer is always told: lose nothing of a text, and learn alike each time."""


class SentencePieceTokenizer:
    """Pieces of words; any text that UTF-8 can spell survives the round trip.

    Args:
        model: what tokenizer.model holds.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._space_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        names = specials_in(self._processor)
        self._specials = {name: self._processor.piece_to_id(name) for name in names}
        longest_first = sorted(names, key=len, reverse=True)
        self._named = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._choose = Choice(partial(quick_of, self._processor, self._library), self._library)

    @classmethod
    def build(cls, options: SentencePieceOptions, texts: Iterable[str]) -> Self:
        """Learn the pieces.

        Raises:
            DataError: there is no text, or it has more characters than `vocab_size` has room for.
        """
        lines = sample(_lines(texts), options.sample_bytes)
        if not lines:
            raise DataError("tokenizer: there is no text to learn from; give more in data.path")
        tokenizer = cls(train(options, lines))
        tell_fewer(options.vocab_size, tokenizer.vocab_size)
        return tokenizer

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls((folder / MODEL).read_bytes())

    def save(self, folder: Path) -> None:
        """Write tokenizer.model, and tokenizer.json and tokenizer_config.json for transformers."""
        (folder / MODEL).write_bytes(self._model)
        write_fast(folder, self._processor)
        write_config(folder, list(self._specials))

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None if there is none of that name."""
        return self._specials.get(token)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone; a special token is never made from text."""
        # a text with sentencepiece's own sign is encoded around it, and the sign in bytes, which decode to it
        first, *others = text.split(SPACE)
        ids: list[int] = self._processor.encode(first)
        for part in others:
            ids += self._space_ids + self._processor.encode(part)
        return ids

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
        parts = self._named.split(text)  # the names are every other part
        found = [[self._specials[part]] if at % 2 else self.encode(part) for at, part in enumerate(parts)]
        return [id_ for ids in found for id_ in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens give nothing, a broken UTF-8 sequence gives U+FFFD."""
        text: str = self._processor.decode(list(ids))
        return text

    def _library(self, texts: Sequence[str]) -> list[list[int]]:
        many = self._processor.encode(list(texts), num_threads=threads())
        return [self.encode(text) if SPACE in text else ids for text, ids in zip(texts, many, strict=True)]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in NOT_LEARNED.split(text):
            for at in range(0, len(line), LINE):
                yield line[at : at + LINE]


def train(options: SentencePieceOptions, lines: Sequence[str]) -> bytes:
    """Return the model file learned from `lines`; few lines give a smaller vocabulary.

    Raises:
        DataError: sentencepiece cannot make a vocabulary of that size from them; the message says which it can.
    """
    try:
        try:
            return _train(options, options.vocab_size, lines)
        except RuntimeError as error:
            most = TOO_FEW.search(str(error))
            if most is None:
                raise
        return _train(options, int(most[1]), lines)
    except RuntimeError as error:
        raise DataError(_advice(options.vocab_size, str(error))) from error


def _train(options: SentencePieceOptions, vocab_size: int, lines: Sequence[str]) -> bytes:
    specials = specials_of(options.special_tokens, options.vocab_size)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=options.model_type,
        vocab_size=vocab_size,
        character_coverage=options.character_coverage,
        control_symbols=specials[len(SPECIALS) :],
        **FIXED,
    )
    return model.getvalue()


def _advice(vocab_size: int, message: str) -> str:
    where = f"tokenizer.vocab_size = {vocab_size}"
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"{where}: the characters of the training texts need {found[1]}; set that, or lower character_coverage"
    return f"{where}: sentencepiece cannot learn from the training texts: {message.strip().splitlines()[-1]}"
