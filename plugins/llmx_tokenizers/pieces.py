"""A sentencepiece model in other forms: as tokenizer.json for other tools, and for tiktoken, which is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from llmx_tokenizers import SPECIALS, UNK
from llmx_tokenizers.fast import TOKENIZER, add_specials
from llmx_tokenizers.quick import Quick

SPACE = "\u2581"
"""What sentencepiece writes for a space."""
NEVER = -1e4
"""Log-probability of the names of special and byte tokens as pieces of a text; that of a learned one is some -10."""
MOST_CLASSES = 8
"""Of characters that words are made of, in a regular expression."""


def specials_in(processor: SentencePieceProcessor) -> list[str]:
    """Return the special tokens of a model, which stand before all others."""
    sizes = range(processor.vocab_size())
    return [processor.id_to_piece(n) for n in sizes if processor.is_control(n) or processor.is_unknown(n)]


def pieces_of(processor: SentencePieceProcessor) -> dict[str, int]:
    """Return the learned pieces with their ids, in the order of the ids."""
    sizes = range(processor.vocab_size())
    odd = (processor.is_control, processor.is_unknown, processor.is_byte)
    return {processor.id_to_piece(n): n for n in sizes if not any(is_odd(n) for is_odd in odd)}


def is_bpe(processor: SentencePieceProcessor) -> bool:
    """Return whether a model joins neighbours: there the scores are ranks."""
    return all(processor.get_score(id_).is_integer() for id_ in pieces_of(processor).values())


def write_fast(folder: Path, processor: SentencePieceProcessor) -> None:
    """Write tokenizer.json for a model with our specials.

    Its ids are those of sentencepiece but for texts with U+2581, which it reads as a space, and for texts with the
    name of a special or byte token where a unigram model has no piece "<".
    """
    tokenizer = Tokenizer(_bpe(processor) if is_bpe(processor) else _unigram(processor))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    add_specials(tokenizer, specials_in(processor))
    tokenizer.save(str(folder / TOKENIZER))


def _unigram(processor: SentencePieceProcessor) -> Unigram:
    learned = set(pieces_of(processor).values())
    numbers = range(processor.vocab_size())
    scores = [(processor.id_to_piece(n), processor.get_score(n) if n in learned else NEVER) for n in numbers]
    return Unigram(scores, unk_id=UNK, byte_fallback=True)


def _bpe(processor: SentencePieceProcessor) -> BPE:
    """Return a model that merges every pair of pieces that makes a third, first those that make the one learned first.

    sentencepiece keeps ranks and no merges (a piece's score is minus its rank): it joins the neighbours whose union
    ranks first, which is the same.
    """
    ids = {processor.id_to_piece(index): index for index in range(processor.vocab_size())}
    merges = []
    for piece in pieces_of(processor):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return BPE(vocab=ids, merges=merges, unk_token=SPECIALS[UNK], byte_fallback=True)


def quick_of(processor: SentencePieceProcessor, slow: Callable[[Sequence[str]], list[list[int]]]) -> Quick | None:
    """Return what encodes as a byte-pair model does, None where that cannot be shown.

    tiktoken begins with bytes and sentencepiece with characters: the bytes of each known character are therefore joined
    before all else, by ranks of their own. What is left of an unknown one is spelt in bytes again.
    """
    learned = pieces_of(processor)
    texts = {piece: piece.replace(SPACE, " ") for piece in learned}
    joined = [piece for piece in learned if len(piece) > 1]
    scores = [processor.get_score(learned[piece]) for piece in joined]
    words = all(SPACE not in piece.lstrip(SPACE) and "\n" not in piece for piece in joined)
    if not (is_bpe(processor) and words and all(one > two for one, two in pairwise(scores))):
        return None
    if slow([texts[piece] for piece in joined]) != [[learned[piece]] for piece in joined]:
        return None  # one is not what its own characters are joined to
    byte_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    spelt = {bytes([byte]): [id_] for byte, id_ in enumerate(byte_ids)}
    letters = {texts[piece].encode(): id_ for piece, id_ in learned.items() if len(piece) == 1}
    for letter in letters:
        spelt |= {letter[:end]: [byte_ids[byte] for byte in letter[:end]] for end in range(2, len(letter))}
    spelt |= {letter: [id_] for letter, id_ in letters.items()}
    spelt |= {texts[piece].encode(): [learned[piece]] for piece in joined}
    ranks = {token: rank for rank, token in enumerate(spelt)}
    return Quick(words_of(joined), ranks, ids=dict(enumerate(spelt.values())), slow=slow)


def words_of(pieces: Sequence[str]) -> str:
    """Return a regular expression for words that no piece of several characters goes beyond.

    A word is of characters of one class, with the spaces before it: two that are in one piece are in one class. A
    character that is in none is a word by itself, and so is the line end.
    """
    classes: dict[str, set[str]] = {}
    for piece in pieces:
        letters = set(piece) - {SPACE}
        whole = letters.union(*(classes[letter] for letter in letters if letter in classes))
        classes |= dict.fromkeys(whole, whole)
    found = sorted({id(each): each for each in classes.values()}.values(), key=len, reverse=True)
    rest = set().union(*found[MOST_CLASSES - 1 :])
    sets = [_characters(each) for each in (*found[: MOST_CLASSES - 1], rest) if each]
    return "|".join([*(f" *[{each}]+" for each in sets), " +", "[^ ]"])


def _characters(letters: set[str]) -> str:
    """Return what stands for characters in brackets of a regular expression."""
    codes = sorted(map(ord, letters))
    begins = [code for code in codes if not code or chr(code - 1) not in letters]
    ends = [code for code in codes if code == 0x10FFFF or chr(code + 1) not in letters]
    return "".join(f"\\x{{{begin:x}}}-\\x{{{end:x}}}" for begin, end in zip(begins, ends, strict=True))
