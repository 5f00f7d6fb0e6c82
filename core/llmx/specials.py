"""What a model folder says of special tokens: how texts begin and end, in its config and its generation config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.errors import CheckpointError
from llmx.protocols import Template, Tokenizer
from llmx.weights import read_json

if TYPE_CHECKING:
    from llmx.recipe import Recipe

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
END = "eos_token_id"


def read_ends(folder: Path) -> frozenset[int]:
    """Return the ids that end a text by generation_config.json, or where there is none by config.json: those at which
    transformers' `generate` stops.

    Raises:
        CheckpointError: they are no ids.
    """
    path = folder / GENERATION
    path = path if path.exists() else folder / CONFIG
    return frozenset(_ids(read_json(path).get(END), path))


def ends_of(recipe: Recipe, tokenizer: Tokenizer, template: Template | None) -> frozenset[int]:
    """Return what `read_ends` will read in the model folder of a run; raises as that does, of its base."""
    written = generation_config({}, tokenizer, template, kept_base(recipe))
    return frozenset(_ids(written.get(END), Path(GENERATION)))


def kept_base(recipe: Recipe) -> Path | None:
    """Return the folder that a run begins with, if it keeps its tokenizer, and so what it says of special tokens."""
    return None if recipe.base is None or recipe.tokenizer.folder is None else recipe.base.folder


def special_ids(
    folder: Path, tokenizer: Tokenizer, template: Template | None, base: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what config.json says of special tokens, and the whole of generation_config.json.

    Args:
        folder: holds the tokenizer's files.
        base: the folder whose special ids and whose generation config are kept.
    """
    pad = _pad_id(folder, tokenizer)
    own: dict[str, Any] = dict(zip(SPECIAL_IDS, (tokenizer.bos_id, tokenizer.eos_id, pad), strict=True))
    generation = generation_config(own, tokenizer, template, base)
    config = {} if base is None else read_json(base / CONFIG)
    return own | {key: config[key] for key in SPECIAL_IDS if key in config}, generation


def generation_config(
    own: dict[str, Any], tokenizer: Tokenizer, template: Template | None, base: Path | None
) -> dict[str, Any]:
    """Return the whole of generation_config.json; what ends a text there is all that ends an assistant's turn, and then
    what ends a document."""
    stop = [tokenizer.special_id(token) for token in (template.stop if template else ())]
    turn_ends = [each for each in stop if each is not None]
    if base is not None and (base / GENERATION).exists():
        return _stopped_by(read_json(base / GENERATION), turn_ends, base / GENERATION)
    ends = list(dict.fromkeys(each for each in (*turn_ends, tokenizer.eos_id) if each is not None))
    return {**own, END: ends if len(ends) > 1 else next(iter(ends), None)}


def _stopped_by(generation: dict[str, Any], stop: list[int], path: Path) -> dict[str, Any]:
    """Return a generation config that ends a text at these ids too: another template than the base's has its own."""
    ends = _ids(generation.get(END), path)
    missing = [each for each in stop if each not in ends]
    return {**generation, END: missing + ends} if missing else generation


def _ids(given: Any, path: Path) -> list[int]:
    ends = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(each) is int for each in ends):
        raise CheckpointError(f"{path}: {END} = {given!r}: must be the id of a token, or a list of ids")
    return ends


def _pad_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that the tokenizer's own file names for padding, None where it names none."""
    path = folder / TOKENIZER_CONFIG
    named = read_json(path).get("pad_token") if path.exists() else None
    token = named.get("content") if isinstance(named, dict) else named
    return tokenizer.special_id(token) if isinstance(token, str) else None
