"""Byte-level BPE as GPT-2, Llama 3 and Qwen have it: how it splits text, and which of it tiktoken encodes alike."""

from __future__ import annotations

import functools
import itertools
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import CharDelimiterSplit, Split

from llmx_tokenizers.quick import Quick

_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST = r"[^\r\n\p{L}\p{N}]?"
QWEN2 = rf"{_SHORT}|{_FIRST}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
"""How Qwen2, Qwen2.5 and Qwen3 split a text into words: no merge goes beyond one."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = frozenset(
    {
        GPT2,
        QWEN2,
        rf"{_SHORT}|{_FIRST}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}",  # Qwen3.5
        rf"{_SHORT}|{_FIRST}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",  # GPT-4, Llama 3
        rf"{_FIRST}{_UPPER}*{_LOWER}+{_SHORT}?|{_FIRST}{_UPPER}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}",  # GPT-4o, gpt-oss
    }
)
"""Splits that leave no character out and mean the same to both engines of regular expressions."""


def quick_of(tokenizer: Tokenizer, slow: Callable[[Sequence[str]], list[list[int]]]) -> Quick | None:
    """Return what encodes as `tokenizer` does with `encode_special_tokens`, None where that cannot be shown.

    Args:
        slow: encodes by the tokenizer itself.
    """
    form = json.loads(tokenizer.to_str())
    pattern = split_pattern(form["pre_tokenizer"])
    ranks = ranks_of(tokenizer, form["model"])
    if pattern not in PATTERNS or ranks is None or form["normalizer"] not in (None, {"type": "NFC"}):
        return None
    if not splits_alike(pattern):
        return None
    added = tokenizer.get_added_tokens_decoder()
    if not _apart([each.content for each in added.values()]):
        return None
    if not all(each.special or _plain(each) for each in added.values()):
        return None
    named = {each.content: id_ for id_, each in added.items() if not each.special}
    normal = _nfc(tokenizer, tuple(named)) if form["normalizer"] else None
    return Quick(pattern, ranks, named=named, normal=normal, slow=slow)


def split_pattern(form: Mapping[str, Any] | None) -> str | None:
    """Return the regular expression by which a pre-tokenizer splits before it spells words in bytes, if it does."""
    steps = [] if form is None else form["pretokenizers"] if form["type"] == "Sequence" else [form]
    *splits, last = steps or [{"type": ""}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not splits:
        return GPT2 if last["use_regex"] else None
    (split,) = splits if len(splits) == 1 else [{"type": ""}]
    whole = split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]
    return split["pattern"].get("Regex") if whole and not last["use_regex"] else None


def ranks_of(tokenizer: Tokenizer, form: Mapping[str, Any]) -> dict[bytes, int] | None:
    """Return the bytes of each token with its id, if merging in the order of ids is what the model does.

    Args:
        form: the model as tokenizer.json has it.
    """
    never = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    if form["type"] != "BPE" or any(form.get(key) for key in never):
        return None
    ids, letters = form["vocab"], byte_letters()
    merges = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in form["merges"]]
    last, made = -1, dict.fromkeys(letters, -1)
    for left, right in merges:
        union = ids[left + right]
        if max(last, made.get(left, math.inf), made.get(right, math.inf)) > union:
            return None  # out of order, or of a part that comes later or never
        made[left + right] = last = union
    if not letters.keys() <= ids.keys() or not _reached(BPE(vocab=ids, merges=merges), {t: ids[t] for t in made}):
        return None
    if form.get("ignore_merges") and not ids.keys() - made.keys() <= _names(tokenizer):
        return None  # a word may be a token that no merge makes
    plain = {ord(letter): byte for letter, byte in letters.items()}
    return {token.translate(plain).encode("latin-1"): ids[token] for token in made}


def _names(tokenizer: Tokenizer) -> set[str]:
    return {each.content for each in tokenizer.get_added_tokens_decoder().values()}


def _reached(model: BPE, tokens: Mapping[str, int]) -> bool:
    """Return whether each token is what merging makes of its own bytes."""
    bare = Tokenizer(model)
    bare.pre_tokenizer = CharDelimiterSplit(" ")
    found = bare.encode_batch_fast([" ".join(each) for each in _parts(list(tokens))], add_special_tokens=False)
    return [id_ for each in found for id_ in each.ids] == list(tokens.values())


def _parts(values: Sequence[str], size: int = 1000) -> Iterator[Sequence[str]]:
    return (values[at : at + size] for at in range(0, len(values), size))


def byte_letters() -> dict[str, int]:
    """Return the printable letter that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}


def _plain(token: AddedToken) -> bool:
    """Return whether an added token is found wherever its text stands, and takes nothing with it."""
    bare = not (token.lstrip or token.rstrip or token.single_word)
    return bare and (not token.normalized or unicodedata.is_normalized("NFC", token.content))


def _apart(names: Sequence[str]) -> bool:
    """Return whether no two names can overlap in a text: none begins within another."""
    first = {name[:1] for name in names}
    return all(name and first.isdisjoint(name[1:]) for name in names)


def _nfc(tokenizer: Tokenizer, named: Sequence[str]) -> Callable[[str], str | None]:
    """Return what puts a text in normal form C by the tokenizer's own tables.

    A text that has it by Python's tables has it by older ones too: what those do not know stands for itself there.
    """
    normalizer = tokenizer.normalizer
    assert normalizer is not None

    def normal(text: str) -> str | None:
        if unicodedata.is_normalized("NFC", text):
            return text
        if any(name in text for name in named):
            return None  # the tokenizer takes these out first and normalises what is between
        found: str = normalizer.normalize_str(text)
        return found

    return normal


@functools.cache
def splits_alike(pattern: str) -> bool:
    """Return whether both libraries split by a pattern alike: their tables may be of different versions of Unicode.

    Letters of one version that another does not know come in blocks, of which some of each are looked at.
    """
    from tiktoken import Encoding

    codes = itertools.chain(range(0x3400), range(0xA000, 0xAC00), range(0x3400, 0x34000, 13))
    letters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    text = "".join(f" {each}a{each}1{each}'s{each}\n" for each in letters)
    words = [word.encode() for word, _ in Split(Regex(pattern), "isolated").pre_tokenize_str(text)]
    ranks = {
        word: number for number, word in enumerate({bytes([byte]): 0 for byte in range(256)} | dict.fromkeys(words))
    }
    encoding = Encoding("words", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_ordinary(text) == [ranks[word] for word in words]  # it takes a known word whole
