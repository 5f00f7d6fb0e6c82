"""Where a model keeps its chat template, and the special tokens it is told by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.errors import RecipeError
from llmx_templates.turns import FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmx.protocols import Tokenizer
    from llmx_templates import JinjaOptions

CONFIG, PROCESSOR, MAP = "tokenizer_config.json", "chat_template.json", "special_tokens_map.json"
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Special tokens that transformers hands to a template by these names."""
USUAL = {
    "bos_token": ("<bos>", "<s>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|startoftext|>", "[BOS]"),
    "eos_token": ("<eos>", "</s>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<end_of_turn>"),
}
"""Names to try where no file says what a tokenizer's tokens are called."""


@frozen
class Source:
    """A template as it was found.

    Attributes:
        path: the file, for messages.
        text: what is in it, and before it what the options set.
        tokens: special tokens by the names in `NAMES`.
        date: the day it is told, as in `JinjaOptions`.
    """

    path: str
    text: str
    tokens: Mapping[str, str]
    date: str


def read_source(options: JinjaOptions, tokenizer: Tokenizer | None) -> Source:
    """Return the template that `options.path` names.

    Raises:
        RecipeError: there is none, or its file cannot be read.
    """
    path = Path(options.path).expanduser()
    folder = path if path.is_dir() else path.parent
    found, text = _in_folder(path) if path.is_dir() else (path, _in_file(path))
    if options.thinking is not None:  # in the text, so that what is saved says the same
        text = f"{{%- set enable_thinking = {str(options.thinking).lower()} %}}{{{{ '' }}}}{text}"
    tokens = {name: token for file in (CONFIG, MAP) for name, token in _tokens(folder / file).items()}
    return Source(str(found), text, {**_guessed(tokenizer), **tokens}, options.date)


def _in_folder(folder: Path) -> tuple[Path, str]:
    for name in (FILE, PROCESSOR, CONFIG):
        if (folder / name).is_file() and (text := _in_file(folder / name, required=False)):
            return folder / name, text
    raise RecipeError(
        f"template.path = {str(folder)!r}: has neither {FILE} nor a chat_template in {CONFIG}: set another"
    )


def _in_file(path: Path, *, required: bool = True) -> str:
    if path.suffix != ".json":
        return _read(path)
    found = _object(path).get("chat_template")
    if isinstance(found, list):  # several by name, as Cohere has them
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if isinstance(found, str):
        return found
    if required:
        raise RecipeError(f"template.path = {str(path)!r}: holds no chat_template: set another")
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise RecipeError(f"template.path = {str(path)!r}: {reason}: set a model folder or a template") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise RecipeError(f"template.path: {path}: not valid JSON: {error}; fetch it again") from error
    return found if isinstance(found, dict) else {}


def _tokens(path: Path) -> dict[str, str]:
    values = _object(path) if path.is_file() else {}
    named = {name: values.get(name) for name in NAMES}
    spelled = {name: each.get("content") if isinstance(each, dict) else each for name, each in named.items()}
    return {name: each for name, each in spelled.items() if isinstance(each, str)}


def _guessed(tokenizer: Tokenizer | None) -> dict[str, str]:
    if tokenizer is None:
        return {}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    known = {name: id_ for name, id_ in ids.items() if id_ is not None}
    return {
        name: token
        for name, id_ in known.items()
        for token in reversed(USUAL[name])
        if tokenizer.special_id(token) == id_
    }
