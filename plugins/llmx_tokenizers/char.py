"""One id for each character, bytes for characters without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Self

import numpy as np
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE

from llmx_tokenizers import SPECIALS, UNK, CharOptions
from llmx_tokenizers.fast import LearnedTokenizer, add_specials, base_vocabulary, specials_of
from llmx_tokenizers.quick import Ids


class CharTokenizer(LearnedTokenizer):
    """A BPE model without merges over specials, bytes and characters: every text survives the round trip."""

    @classmethod
    def build(cls, options: CharOptions, texts: Iterable[str]) -> Self:
        """Give ids to the characters of `texts`, the most frequent first and equally frequent ones by code point."""
        specials = specials_of(options.special_tokens, options.vocab_size)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        vocabulary = base_vocabulary(specials)
        ranked = sorted((-count, character) for character, count in counts.items() if count >= options.min_freq)
        room = None if options.vocab_size is None else options.vocab_size - len(vocabulary)
        for _, character in ranked[:room]:
            vocabulary.setdefault(character, len(vocabulary))
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=SPECIALS[UNK], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        add_specials(tokenizer, specials)
        return cls(tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """Return `encode` of each text as an array."""
        return [self._ids(text) for text in texts]

    def _ids(self, text: str) -> Ids:
        """Look the characters up; the library makes the same ids and needs 200 bytes of memory for each character."""
        table, first_byte = self._table
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = table[np.minimum(codes, len(table) - 1)]
        unknown = ids < 0
        if not unknown.any():
            return ids
        rare = codes[unknown]
        lengths = np.ones(len(ids), dtype=np.int64)
        lengths[unknown] += (rare >= 0x80).astype(np.int64) + (rare >= 0x800) + (rare >= 0x10000)
        spelt = np.repeat(unknown, lengths)
        found = np.empty(len(spelt), dtype=np.int32)
        found[~spelt] = ids[~unknown]
        found[spelt] = np.frombuffer(rare.tobytes().decode("utf-32-le").encode(), dtype=np.uint8) + np.int32(first_byte)
        return found

    @cached_property
    def _table(self) -> tuple[Ids, int]:
        """The id of each code point up to one past the last that has one, -1 for none; and the id of byte 0."""
        vocabulary = self._tokenizer.get_vocab()
        characters = {
            ord(token): id_ for token, id_ in vocabulary.items() if len(token) == 1 and token not in self._added
        }
        table = np.full(max(characters, default=0) + 2, -1, dtype=np.int32)
        table[list(characters)] = list(characters.values())
        return table, vocabulary["<0x00>"]
