"""A sentencepiece model written as tokenizer.json, for tools that do not have sentencepiece."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from llmx_tokenizers import BASE_SIZE, SPECIALS, UNK
from llmx_tokenizers.fast import TOKENIZER, add_specials

NEVER = -1e4
"""Log-probability of the names of special and byte tokens as pieces of a text; that of a learned one is some -10."""


def write_fast(folder: Path, processor: SentencePieceProcessor) -> None:
    """Write tokenizer.json for a model with our specials.

    Its ids are those of sentencepiece but for texts with U+2581, which it reads as a space, and for texts with the
    name of a special or byte token where a unigram model has no piece "<".
    """
    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    scores = [processor.get_score(index) for index in range(processor.vocab_size())]
    tokenizer = Tokenizer(_bpe(pieces) if scores[-1].is_integer() else _unigram(pieces, scores))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    add_specials(tokenizer)
    tokenizer.save(str(folder / TOKENIZER))


def _unigram(pieces: list[str], scores: list[float]) -> Unigram:
    learned = list(zip(pieces, scores, strict=True))[BASE_SIZE:]
    return Unigram([*((piece, NEVER) for piece in pieces[:BASE_SIZE]), *learned], unk_id=UNK, byte_fallback=True)


def _bpe(pieces: list[str]) -> BPE:
    """Return a model that merges every pair of pieces that makes a third, first those that make the one learned first.

    sentencepiece keeps ranks and no merges (a piece's score is minus its rank): it joins the neighbours whose union
    ranks first, which is the same.
    """
    ids = {piece: index for index, piece in enumerate(pieces)}
    merges = []
    for piece in pieces[BASE_SIZE:]:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return BPE(vocab=ids, merges=merges, unk_token=SPECIALS[UNK], byte_fallback=True)
