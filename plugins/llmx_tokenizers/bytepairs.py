"""Byte-level BPE learned from the training texts, in the form of Qwen's: what it saves, other tools read as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Self

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from llmx.errors import DataError
from llmx_tokenizers import BpeOptions
from llmx_tokenizers.bytelevel import QWEN2
from llmx_tokenizers.fast import LearnedTokenizer, add_specials, specials_of, tell_fewer
from llmx_tokenizers.sampling import sample

PASSAGE = 2000
"""Characters of which the sample is made, or a few more: long enough that where they are cut matters little."""
LINE_START = re.compile(r"(?<=\n)(?=\S)")
"""Where a text can be cut and no word with it: line ends and the white space after them are one."""


class BpeTokenizer(LearnedTokenizer):
    """Merges of bytes within words; a text comes back in Unicode's normal form C."""

    @classmethod
    def build(cls, options: BpeOptions, texts: Iterable[str]) -> Self:
        """Learn the merges.

        Raises:
            DataError: there is no text.
            RecipeError: the special tokens and the bytes are more than `vocab_size`.
        """
        specials = specials_of(options.special_tokens, options.vocab_size)
        passages = sample(_passages(texts), options.sample_bytes)
        if not any(passages):
            raise DataError("tokenizer: there is no text to learn from; give more in data.path")
        tokenizer = Tokenizer(BPE())
        tokenizer.normalizer = normalizers.NFC()
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), bytes_of]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=options.vocab_size,
            min_frequency=options.min_frequency,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=specials,
            show_progress=False,
        )
        tokenizer.train_from_iterator(passages, trainer)
        add_specials(tokenizer, specials)
        tell_fewer(options.vocab_size, tokenizer.get_vocab_size())
        return cls(tokenizer)


def _passages(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts into passages, at line starts where there are some."""
    for text in texts:
        begin = 0
        while len(text) - begin > PASSAGE:
            found = LINE_START.search(text, begin + PASSAGE // 2, begin + 2 * PASSAGE)
            end = found.start() if found else begin + PASSAGE
            yield text[begin:end]
            begin = end
        yield text[begin:]
