"""Tokenizers with the mistakes that authors make, and correct ones that are unlike ours."""

from __future__ import annotations

import json
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from attrs import field, frozen

from llmx import Component

BOS, EOS, BYTES = 0, 1, 2
"""The ids of the special tokens and of the first byte; characters come after the 256 bytes."""


@frozen
class LettersOptions:
    vocab_size: int = field(default=300)
    """Ids, the special tokens and the bytes included."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens besides; they come last."""


class Letters:
    """Correct: frequent characters have ids, all others are spelt in bytes."""

    bos_id: int | None = BOS
    eos_id: int | None = EOS

    def __init__(self, letters: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        self.letters, self.special_tokens = list(letters), list(special_tokens)
        first = BYTES + 256
        self.ids = {letter: first + number for number, letter in enumerate(self.letters)}
        named = enumerate(self.special_tokens, first + len(self.letters))
        self.specials = {"<bos>": BOS, "<eos>": EOS, **{name: number for number, name in named}}
        self.vocab_size = first + len(self.letters) + len(self.special_tokens)

    @classmethod
    def build(cls, options: LettersOptions, texts: Iterable[str]) -> Self:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
        return cls(ranked[: options.vocab_size - BYTES - 256 - len(options.special_tokens)], options.special_tokens)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(*json.loads((folder / "letters.json").read_text(encoding="utf-8")))

    def save(self, folder: Path) -> None:
        saved = json.dumps([self.letters, self.special_tokens])
        (folder / "letters.json").write_text(saved, encoding="utf-8")

    def special_id(self, token: str) -> int | None:
        return self.specials.get(token)

    def encode_markup(self, text: str) -> list[int]:
        parts = re.split(f"({'|'.join(map(re.escape, self.specials))})", text)
        found = [[self.specials[part]] if at % 2 else self.encode(part) for at, part in enumerate(parts)]
        return [each for ids in found for each in ids]

    def encode(self, text: str) -> list[int]:
        return [each for letter in text for each in self.spell(letter)]

    def spell(self, letter: str) -> list[int]:
        if letter in self.ids:
            return [self.ids[letter]]
        return [BYTES + byte for byte in letter.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def raw(self, ids: Sequence[int]) -> bytes:
        first = BYTES + 256
        return b"".join(
            self.letters[each - first].encode() if each >= first else bytes([each - BYTES])
            for each in ids
            if BYTES <= each < first + len(self.letters)
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self.raw(ids).decode("utf-8", "replace")


# --- faults ---------------------------------------------------------------------------------------------------------


class StripsEnds(Letters):
    """White space at the ends of a text is lost."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.strip())


class CarriageReturns(Letters):
    """Windows line ends become others, as when text is read in text mode."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("\r\n", "\n"))


class BasicPlane(Letters):
    """Characters above U+FFFF lose their upper bits."""

    def encode(self, text: str) -> list[int]:
        return super().encode("".join(chr(ord(each) & 0xFFFF) if ord(each) > 0xFFFF else each for each in text))


class CutsDocuments(Letters):
    """A text is cut after 2,048 tokens, as a sentence encoder does."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text)[:2048]


class DummyPrefix(Letters):
    """A space is put before each text and never taken away."""

    def encode(self, text: str) -> list[int]:
        return super().encode(" " + text)


class BeyondTheEnd(Letters):
    """vocab_size forgets the last character: its id is out of the embedding."""

    def __init__(self, letters: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        super().__init__(letters, special_tokens)
        self.vocab_size -= 1


class Floats(Letters):
    """vocab_size comes back as a float from arithmetic."""

    def __init__(self, letters: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        super().__init__(letters, special_tokens)
        self.vocab_size = self.vocab_size / 1


class TupleOfIds(Letters):
    """encode returns a tuple, to which bos and eos cannot be added."""

    def encode(self, text: str) -> list[int]:
        return tuple(super().encode(text))


class SortedBatch(Letters):
    """A batch is sorted by length for speed, and not put back."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in sorted(texts, key=len)]


class PaddedBatch(Letters):
    """A batch is padded to its longest text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        found = super().encode_batch(texts)
        return [ids + [EOS] * (max(map(len, found)) - len(ids)) for ids in found]


class AddsBos(Letters):
    """encode puts bos before the text, and the run puts another."""

    def encode(self, text: str) -> list[int]:
        return [BOS, *super().encode(text)]


class ReadsSpecials(Letters):
    """The name of the end token in a text becomes the end token."""

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split("<|endoftext|>")):
            ids += [EOS] * (number > 0) + super().encode(part)
        return ids


class OwnSpecials(Letters):
    """It has a name of its own for the end token, and reads it in texts."""

    END = "<|my-end|>"

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(self.END)):
            ids += [EOS] * (number > 0) + super().encode(part)
        return ids

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "specials.json").write_text(json.dumps({"eos_token": self.END}), encoding="utf-8")


class ShowsSpecials(Letters):
    """The special tokens decode to their names."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(
            f"<{'be'[each]}os>" if each < BYTES else super(ShowsSpecials, self).decode([each]) for each in ids
        )


class StopsAtEos(Letters):
    """decode ends at the first end token."""

    def decode(self, ids: Sequence[int]) -> str:
        ids = list(ids)
        return super().decode(ids[: ids.index(EOS)] if EOS in ids else ids)


class Strict(Letters):
    """A broken UTF-8 sequence is an exception."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.raw(ids).decode()


class Silent(Letters):
    """A broken UTF-8 sequence vanishes."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.raw(ids).decode("utf-8", "ignore")


class Escapes(Letters):
    """A broken UTF-8 sequence becomes lone surrogates, which no file and no terminal takes."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.raw(ids).decode("utf-8", "surrogateescape")


class MarkupAsText(Letters):
    """Markup is encoded as text is: the special tokens are spelt."""

    def encode_markup(self, text: str) -> list[int]:
        return self.encode(text)


class KnowsEveryName(Letters):
    """Any name has the id of the end token, as libraries give the id of the unknown token."""

    def special_id(self, token: str) -> int | None:
        return self.specials.get(token, EOS)


class OtherTextInMarkup(Letters):
    """White space beside special tokens is lost, and elsewhere too."""

    def encode_markup(self, text: str) -> list[int]:
        return super().encode_markup(text.strip())


class DropsSpecialTokens(Letters):
    """The special tokens that are asked for are not saved."""

    def save(self, folder: Path) -> None:
        (folder / "letters.json").write_text(json.dumps([self.letters, []]), encoding="utf-8")


class SharesAnId(Letters):
    """All special tokens that are asked for have one id."""

    def __init__(self, letters: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        super().__init__(letters, special_tokens)
        self.specials |= dict.fromkeys(special_tokens, self.vocab_size - 1)


class ReadsAskedFor(Letters):
    """Special tokens that are asked for are made from text, as <think> is by libraries that only add it."""

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split("<think>")):
            ids += [self.specials.get("<think>", EOS)] * (number > 0) + super().encode(part)
        return ids


class WideArrays(Letters):
    """Arrays are of int64, as numpy makes them by itself."""

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(ids, dtype=np.int64) for ids in self.encode_batch(texts)]


class SortedArrays(Letters):
    """Arrays come in another order."""

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), dtype=np.int32) for text in sorted(texts)]


class CapitalLast(Letters):
    """The last word decides how the first is written: text that was shown changes when more comes."""

    def decode(self, ids: Sequence[int]) -> str:
        text = super().decode(ids)
        return text.swapcase() if len(text) % 2 == 0 and len(text) > 10 and text.isascii() else text


class CleansUp(Letters):
    """The space before punctuation is taken away, which had been shown when the punctuation came."""

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).replace(" .", ".").replace(" ,", ",")


class ForgetsEos(Letters):
    """What is loaded has no end token."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        made = super().load(folder)
        made.eos_id = None
        return made


class LineEndsInAFile(Letters):
    """Letters are saved one on a line: the line end is lost."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls([line for line in (folder / "letters.txt").read_text(encoding="utf-8").splitlines() if line])

    def save(self, folder: Path) -> None:
        (folder / "letters.txt").write_text("\n".join(self.letters), encoding="utf-8")


class RemembersTheFolder(Letters):
    """What is saved says where the letters lie, and that is where they were at first."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "where.txt").write_text(str(folder), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return super().load(Path((folder / "where.txt").read_text(encoding="utf-8")))


class FromASet(Letters):
    """Ids follow the order of a set of strings, which another process has otherwise."""

    @classmethod
    def build(cls, options: LettersOptions, texts: Iterable[str]) -> Self:
        return cls(list(set("".join(texts)))[: options.vocab_size - BYTES - 256])


class Shuffled(Letters):
    """A sample of the texts is drawn from the global generator."""

    @classmethod
    def build(cls, options: LettersOptions, texts: Iterable[str]) -> Self:
        return super().build(options, [text for text in texts if random.random() < 0.1])


class Dated(Letters):
    """What is saved has the time in it, so that the data is prepared anew each time."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "made.txt").write_text(os.urandom(8).hex(), encoding="utf-8")


class ReadsTwice(Letters):
    """The texts are read a second time, when there are none left."""

    @classmethod
    def build(cls, options: LettersOptions, texts: Iterable[str]) -> Self:
        letters = sorted({letter for text in texts for letter in text})
        counts = Counter(letter for text in texts for letter in text)
        ranked = sorted(letters, key=lambda letter: (-counts[letter], letter))
        return cls(ranked[: options.vocab_size - BYTES - 256])


class Measures(Letters):
    """The number of texts is asked for, which an iterator does not know."""

    @classmethod
    def build(cls, options: LettersOptions, texts: Sequence[str]) -> Self:
        return super().build(options, texts if len(texts) else [])


class ForgetsTheBytes(Letters):
    """vocab_size counts the letters alone: there are 258 ids more."""

    @classmethod
    def build(cls, options: LettersOptions, texts: Iterable[str]) -> Self:
        return super().build(LettersOptions(options.vocab_size + BYTES + 256), texts)


# --- correct, but unlike ours ---------------------------------------------------------------------------------------


class Composed(Letters):
    """Correct: texts are normalised to NFC, as Qwen's tokenizer does."""

    def encode(self, text: str) -> list[int]:
        return super().encode(unicodedata.normalize("NFC", text))


class LowerWords(Letters):
    """Correct: case, control characters and runs of white space are not kept, unknown letters are dropped."""

    bos_id = None
    eos_id = None

    def encode(self, text: str) -> list[int]:
        plain = " ".join("".join(each if each.isprintable() else " " for each in text.lower()).split())
        return [self.ids[letter] for letter in plain if letter in self.ids]


class Unlearned(Letters):
    """Correct: bytes alone; the texts are not looked at."""

    @classmethod
    def build(cls, options: LettersOptions, _texts: Iterable[str]) -> Self:
        return cls([], options.special_tokens)


class PrefixTakenAway(Letters):
    """Correct: a space is put before each text, and decode takes it away, as Llama 2 does."""

    def encode(self, text: str) -> list[int]:
        return super().encode(" " + text) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).removeprefix(" ")


def planted(target: type) -> Component:
    """Return the component of a class of this file."""
    name = "".join(f"-{each.lower()}" if each.isupper() else each for each in target.__name__).strip("-")
    summary = (target.__doc__ or "").partition("\n")[0]
    return Component(
        name=name, target=f"llmx_faults_tokenizer:{target.__name__}", options=LettersOptions, summary=summary
    )


FAULTS = [
    ("round-trip", planted(StripsEnds)),
    ("round-trip", planted(CarriageReturns)),
    ("round-trip", planted(BasicPlane)),
    ("round-trip", planted(CutsDocuments)),
    ("comes-to-rest", planted(DummyPrefix)),
    ("whole-ids", planted(BeyondTheEnd)),
    ("whole-ids", planted(Floats)),
    ("whole-ids", planted(TupleOfIds)),
    ("batch", planted(SortedBatch)),
    ("batch", planted(PaddedBatch)),
    ("nothing", planted(AddsBos)),
    ("specials-are-never-made-from-text", planted(ReadsSpecials)),
    ("specials-are-never-made-from-text", planted(OwnSpecials)),
    ("specials-say-nothing", planted(ShowsSpecials)),
    ("specials-say-nothing", planted(StopsAtEos)),
    ("markup", planted(MarkupAsText)),
    ("markup", planted(KnowsEveryName)),
    ("markup", planted(OtherTextInMarkup)),
    ("special-tokens-that-are-asked-for", planted(DropsSpecialTokens)),
    ("special-tokens-that-are-asked-for", planted(SharesAnId)),
    ("special-tokens-that-are-asked-for", planted(ReadsAskedFor)),
    ("arrays", planted(WideArrays)),
    ("arrays", planted(SortedArrays)),
    ("broken-bytes", planted(Strict)),
    ("broken-bytes", planted(Silent)),
    ("broken-bytes", planted(Escapes)),
    ("streaming", planted(CapitalLast)),
    ("streaming", planted(CleansUp)),
    ("save-and-load", planted(ForgetsEos)),
    ("save-and-load", planted(LineEndsInAFile)),
    ("save-and-load", planted(RemembersTheFolder)),
    ("equal-texts-give-an-equal-tokenizer", planted(FromASet)),
    ("equal-texts-give-an-equal-tokenizer", planted(Shuffled)),
    ("equal-texts-give-an-equal-tokenizer", planted(Dated)),
    ("texts-come-once", planted(ReadsTwice)),
    ("texts-come-once", planted(Measures)),
    ("vocab-size-is-as-asked", planted(ForgetsTheBytes), {"vocab_size": 270}),
]
"""A check's name and a component that breaks its promise, with options where the defaults do not show it."""

CRASHES = {"strict": "UnicodeDecodeError", "remembers-the-folder": "FileNotFoundError", "measures": "TypeError"}
"""Faults that show as an exception of their own, and which."""

ROOM = {"vocab_size": 2000}
CORRECT = [("*", planted(each), ROOM) for each in (Letters, Composed, LowerWords, Unlearned, PrefixTakenAway)]
"""Components that no check may accuse."""
