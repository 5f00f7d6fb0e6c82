"""Subwords that sentencepiece learns from the training texts, with bytes for what it has no piece for."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import sentencepiece

from llmx.errors import DataError
from llmx_tokenizers import SPECIALS, SentencePieceOptions
from llmx_tokenizers.fast import write_config
from llmx_tokenizers.pieces import write_fast

MODEL = "tokenizer.model"
SPACE = "\u2581"
"""What sentencepiece writes for a space. A text that holds it is encoded around it and the sign itself in bytes, which
decode to it and not to a space."""
NOT_LEARNED = re.compile("[\n\0\u2581\u2585]")
"""The line end has its own piece; the others mean something to the trainer, which leaves out lines that hold them."""
LINE = 1000
"""Characters of a line that the trainer gets at a time: it leaves out lines of more than 4,192 bytes."""
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

    @classmethod
    def build(cls, options: SentencePieceOptions, texts: Iterable[str]) -> Self:
        """Learn the pieces.

        Raises:
            DataError: the texts are too few for `vocab_size`, or their characters too many.
        """
        lines = sample(texts, options.sample_bytes)
        if not lines:
            raise DataError("tokenizer: there is no text to learn from; give more in data.path")
        return cls(train(options, lines))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls((folder / MODEL).read_bytes())

    def save(self, folder: Path) -> None:
        """Write tokenizer.model, and tokenizer.json and tokenizer_config.json for transformers."""
        (folder / MODEL).write_bytes(self._model)
        write_fast(folder, self._processor)
        write_config(folder)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone; a special token is never made from text."""
        first, *others = text.split(SPACE)
        ids: list[int] = self._processor.encode(first)
        for part in others:
            ids += self._space_ids + self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text; sentencepiece uses every core."""
        many = self._processor.encode(list(texts))
        return [self.encode(text) if SPACE in text else ids for text, ids in zip(texts, many, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens give nothing, a broken UTF-8 sequence gives U+FFFD."""
        text: str = self._processor.decode(list(ids))
        return text


def sample(texts: Iterable[str], most_bytes: int) -> list[str]:
    """Return lines of at most `most_bytes` in all, drawn evenly over all texts and alike each time."""
    draw = random.Random(0).random
    kept: list[tuple[float, str]] = []
    share, size = 1.0, 0
    for line in _lines(texts):
        number = draw()
        if number < share:
            kept.append((number, line))
            size += len(line.encode())
        while size > most_bytes and kept:
            share /= 2
            kept = [each for each in kept if each[0] < share]
            size = sum(len(line.encode()) for _, line in kept)
    return [line for _, line in kept]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in NOT_LEARNED.split(text):
            for at in range(0, len(line), LINE):
                yield line[at : at + LINE]


def train(options: SentencePieceOptions, lines: Sequence[str]) -> bytes:
    """Return the model file learned from `lines`.

    Raises:
        DataError: sentencepiece cannot make a vocabulary of that size from them; the message says which it can.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=options.model_type,
            vocab_size=options.vocab_size,
            character_coverage=options.character_coverage,
            **FIXED,
        )
    except RuntimeError as error:
        raise DataError(_advice(options.vocab_size, str(error))) from error
    return model.getvalue()


def _advice(vocab_size: int, message: str) -> str:
    where = f"tokenizer.vocab_size = {vocab_size}"
    if found := re.search(r"Vocabulary size too high .*<= (\d+)", message):
        most = found[1]
        return f"{where}: the training texts are enough for {most} at most; set {most} or less, or give more text"
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"{where}: the characters of the training texts need {found[1]}; set that, or lower character_coverage"
    return f"{where}: sentencepiece cannot learn from the training texts: {message.strip().splitlines()[-1]}"
