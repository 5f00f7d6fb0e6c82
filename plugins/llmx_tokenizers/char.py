"""One id for each character, bytes for characters without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from llmx_tokenizers import BOS, EOS, SPECIALS, UNK, CharOptions
from llmx_tokenizers.fast import TOKENIZER, FastTokenizer, add_specials, base_vocabulary, write_config

CHUNK = 1 << 14
GROUP = 1 << 20
"""Characters that one core takes at a time, and that are in work at a time: the library needs about 200 bytes of
memory for each. Where a text is cut makes no difference to characters."""


class CharTokenizer(FastTokenizer):
    """A BPE model without merges over specials, bytes and characters: every text survives the round trip."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, BOS, EOS)

    @classmethod
    def build(cls, options: CharOptions, texts: Iterable[str]) -> Self:
        """Give ids to the characters of `texts`, the most frequent first and equally frequent ones by code point."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        vocabulary = base_vocabulary()
        ranked = sorted((-count, character) for character, count in counts.items() if count >= options.min_freq)
        room = None if options.vocab_size is None else options.vocab_size - len(vocabulary)
        for _, character in ranked[:room]:
            vocabulary[character] = len(vocabulary)
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=SPECIALS[UNK], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        add_specials(tokenizer)
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(Tokenizer.from_file(str(folder / TOKENIZER)))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json for transformers."""
        self._tokenizer.save(str(folder / TOKENIZER))
        write_config(folder)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text; long ones go through the library in parts."""
        if all(len(text) <= CHUNK for text in texts):
            return super().encode_batch(texts)
        return [self._encode_long(text) for text in texts]

    def _encode_long(self, text: str) -> list[int]:
        ids: list[int] = []
        for begin in range(0, len(text), GROUP):
            end = min(begin + GROUP, len(text))
            for part in super().encode_batch([text[at : min(at + CHUNK, end)] for at in range(begin, end, CHUNK)]):
                ids += part
        return ids
