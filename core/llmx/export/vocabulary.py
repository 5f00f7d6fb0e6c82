"""A folder's tokenizer as a GGUF file says it: tokens, their types, and merges or scores.

llama.cpp knows byte-level BPE ("gpt2": merges within the words of a split that it knows by name) and pieces of
characters joined by score, with bytes for what has no piece ("llama"). Anything else is refused.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.errors import CheckpointError
from llmx.pretrained import read_json

TOKENIZER = "tokenizer.json"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, by the numbers of the file format."""
SPACE = "\u2581"
"""What stands for a space in the pieces of a "llama" tokenizer."""
NEVER = -1000.0
"""Score of tokens that are not joined from others."""
BYTE_NAME = re.compile(r"<0x[0-9A-F]{2}>")

_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"{_SHORT}|{_WORD}|\p{{N}}|{_REST}": "qwen2",
    rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
}
"""Regular expressions that split a text into words, with llama.cpp's names for them."""
_GPT2 = "gpt-2"
"""Its name for the split that the library does by itself, where tokenizer.json gives no expression."""


@frozen
class Vocabulary:
    """What the tokenizer part of a GGUF file says; lists go by id."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    space_first: bool | None = None
    """Whether a text is given a space to begin with; None where the kind has none."""


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Return the tokenizer of a model folder.

    Args:
        size: rows of the model's embedding; ids that have no token get a name that no text has.

    Raises:
        CheckpointError: it has more ids than that, or is of a kind that llama.cpp does not have.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {TOKENIZER}: a GGUF file needs one; write it with transformers")
    form = read_json(path)
    model = form["model"]
    if model.get("type") != "BPE":
        what = 'a byte-pair one alone can be said; a sentencepiece tokenizer is one with model_type = "bpe"'
        raise CheckpointError(f"{path}: a {model.get('type')} tokenizer has no form in GGUF: {what}")
    ids: dict[str, int] = model["vocab"]
    added = {each["content"]: each for each in form.get("added_tokens", ())}
    most = max([*ids.values(), *(each["id"] for each in added.values())]) + 1
    if most > size:
        raise CheckpointError(f"{folder}: the tokenizer has {most} ids, the model's embedding only {size}")
    tokens, types = _tokens(ids, added, size)
    if model.get("byte_fallback"):
        return _by_score(path, form, tokens, types)
    pre = _split_name(path, form)
    return Vocabulary("gpt2", pre, tokens, types, merges=[" ".join(pair) for pair in _merges(model)])


def _tokens(ids: Mapping[str, int], added: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, id_ in ids.items():
        tokens[id_], types[id_] = token, NORMAL
    for token, each in added.items():
        tokens[each["id"]] = token
        types[each["id"]] = CONTROL if each["special"] or _looks_special(token) else USER_DEFINED
    return tokens, types


def _looks_special(token: str) -> bool:
    """Return whether llama.cpp's own converter takes an added token for a control token, as Qwen's `<|fim_prefix|>`."""
    return token.startswith("<|") and token.endswith("|>")


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (each.split(" ") if isinstance(each, str) else each for each in model["merges"])
    return [(left, right) for left, right in pairs]


# --- byte-level BPE -------------------------------------------------------------------------------------------------


def _split_name(path: Path, form: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the split of a byte-level tokenizer.

    Raises:
        CheckpointError: it has none.
    """
    step = form["pre_tokenizer"] or {"type": None}
    *splits, last = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    name = None
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if not splits and last["use_regex"]:
            name = _GPT2
        elif len(splits) == 1 and splits[0]["type"] == "Split" and not last["use_regex"]:
            name = _SPLITS.get(splits[0]["pattern"].get("Regex"))
    if name is None or form["normalizer"] not in (None, {"type": "NFC"}):
        known = ", ".join(sorted({*_SPLITS.values(), _GPT2}))
        raise CheckpointError(f"{path}: splits a text in a way that llama.cpp has no name for (known here: {known})")
    if form["model"].get("ignore_merges") and name != "llama-bpe":
        raise CheckpointError(f"{path}: takes whole words before it merges, which llama.cpp does for llama-bpe alone")
    return name


# --- pieces by score ------------------------------------------------------------------------------------------------


def _by_score(path: Path, form: Mapping[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    """Return a tokenizer that begins with characters and has bytes for those it does not know.

    Raises:
        CheckpointError: joining by score would not make its merges.
    """
    model = form["model"]
    spaces, first = _spaces(form)
    merges = _merges(model)
    if spaces is None or not (spaces or not merges):
        raise CheckpointError(f"{path}: changes a text before it encodes it in a way that llama.cpp cannot")
    if not spaces:  # a character each: the space is one of them
        if SPACE in model["vocab"]:
            raise CheckpointError(f"{path}: has the character U+2581, which stands for a space in GGUF: leave it out")
        tokens = [SPACE if token == " " else token for token in tokens]
    for id_, token in enumerate(tokens):
        if types[id_] == NORMAL and BYTE_NAME.fullmatch(token):
            types[id_] = BYTE
        elif token == model.get("unk_token"):
            types[id_] = UNKNOWN
    pieces = [token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL]
    ranks = _ranks(path, pieces, merges)
    scores = [float(-ranks[t]) if k == NORMAL and t in ranks else NEVER for t, k in zip(tokens, types, strict=True)]
    return Vocabulary("llama", "default", tokens, types, scores=scores, space_first=first)


def _spaces(form: Mapping[str, Any]) -> tuple[bool | None, bool]:
    """Return whether spaces are spelt `SPACE` (None: something else is done besides) and whether one is put first."""
    normal, split = form["normalizer"], form["pre_tokenizer"]
    steps = [] if normal is None else normal["normalizers"] if normal["type"] == "Sequence" else [normal]
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if split is not None:
        whole = split["type"] == "Metaspace" and split["replacement"] == SPACE and not split.get("split", True)
        return (True if whole and not steps else None), split.get("prepend_scheme", "always") != "never"
    if steps == [{"type": "Prepend", "prepend": SPACE}, replaced]:
        return True, True
    return (steps == [replaced] if steps in ([], [replaced]) else None), False


def _ranks(path: Path, pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the rank of each piece that merges make, the first to be joined first.

    llama.cpp joins the neighbours whose union has the highest score, and knows no merges: these must be all the pairs
    that make a piece, one piece after the other.

    Raises:
        CheckpointError: they are not.
    """
    made = [left + right for left, right in merges]
    ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys(made))}
    known, counts = set(pieces), Counter(made)
    in_order = all(ranks[one] <= ranks[two] for one, two in itertools.pairwise(made))
    whole = all(
        counts[piece] == sum(piece[:cut] in known and piece[cut:] in known for cut in range(1, len(piece)))
        for piece in known | counts.keys()
    )
    if not (in_order and whole):
        raise CheckpointError(f"{path}: its merges are not those of pieces by score, and llama.cpp has no other for it")
    return ranks
