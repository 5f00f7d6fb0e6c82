"""A published tokenizer.json, with what the files beside it say of the beginning and the end of a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from llmx.errors import RecipeError
from llmx_tokenizers import HfOptions
from llmx_tokenizers.fast import CONFIG, GENERIC, TOKENIZER, FastTokenizer, write_json

NAMED = (CONFIG, "special_tokens_map.json")
"""Files that name the special tokens, the first to be believed first."""
NUMBERED = ("generation_config.json", "config.json")
"""Files of the model that give their ids."""
BESIDE = (*NAMED, "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model")
"""Files that belong to a tokenizer and are saved with it."""
USUAL_ENDS = ("<|endoftext|>", "</s>", "<|im_end|>")


class HfTokenizer(FastTokenizer):
    """A tokenizer of any model that the `tokenizers` library runs.

    Args:
        path: a tokenizer.json; the files beside it are read too.

    Raises:
        RecipeError: it is missing or broken, or a special token that is named beside it is not in it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._json = path.read_bytes()
            tokenizer = Tokenizer.from_buffer(self._json)
        except OSError as error:
            raise RecipeError(f"tokenizer: {path}: {error.strerror}; set tokenizer.path to a tokenizer.json") from error
        except Exception as error:  # the library raises this bare class for whatever it cannot parse
            reason = str(error).partition("\n")[0]
            raise RecipeError(f"tokenizer: {path}: is no tokenizer.json: {reason}; fetch it again") from error
        self._beside = {name: (path.parent / name).read_bytes() for name in BESIDE if (path.parent / name).is_file()}
        configs = {name: read_object(path.parent / name) for name in (*NAMED, *NUMBERED)}
        self._config = configs[CONFIG]
        self._bos = special_token(tokenizer, configs, "bos")
        self._eos = special_token(tokenizer, configs, "eos")
        super().__init__(tokenizer, _id(tokenizer, self._bos, path), _id(tokenizer, self._eos, path))
        specials = {id_: each.content for id_, each in tokenizer.get_added_tokens_decoder().items() if each.special}
        self._special_ids = frozenset(specials)
        self._inside_special = re.compile("|".join(map(_after_first_character, sorted(specials.values()))) or "(?!)")

    @classmethod
    def build(cls, options: HfOptions, texts: Iterable[str]) -> Self:  # noqa: ARG003  # nothing is learned
        """Read the tokenizer that `options.path` names."""
        path = Path(options.path).expanduser()
        return cls(path / TOKENIZER if path.is_dir() else path)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(folder / TOKENIZER)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the files beside it as they were; tokenizer_config.json now says bos and eos."""
        for name, content in {**self._beside, TOKENIZER: self._json}.items():
            (folder / name).write_bytes(content)
        named = {"bos_token": self._bos, "eos_token": self._eos}
        if any(key not in self._config or _content(self._config[key]) != token for key, token in named.items()):
            write_json(folder / CONFIG, {"tokenizer_class": GENERIC, **self._config, **named})

    def _library(self, texts: Sequence[str]) -> list[list[int]]:
        many = super()._library(texts)
        return [self._without_specials(text, ids) for text, ids in zip(texts, many, strict=True)]

    def _without_specials(self, text: str, ids: list[int]) -> list[int]:
        """Return `ids`, made anew in parts where a model (Unigram, WordPiece) has a special token as a common word."""
        if self._special_ids.isdisjoint(ids):
            return ids
        cuts = [match.end() for match in self._inside_special.finditer(text)]
        if not cuts:
            return ids  # the unknown token, which is special and rightly made
        parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [id_ for part in super()._library(parts) for id_ in part]


def _after_first_character(token: str) -> str:
    return f"{re.escape(token[0])}(?={re.escape(token[1:])})" if len(token) > 1 else "(?!)"


def special_token(tokenizer: Tokenizer, configs: Mapping[str, Mapping[str, Any]], role: str) -> str | None:
    """Return the token that begins ("bos") or ends ("eos") a text, or None.

    The first file that has something to say decides; `null` says that there is none, as Qwen has no bos.
    """
    if role == "bos" and configs[CONFIG].get("add_bos_token") is False:
        return None
    for name in NAMED:
        if f"{role}_token" in configs[name]:
            return _content(configs[name][f"{role}_token"])
    for name in NUMBERED:
        number = configs[name].get(f"{role}_token_id")
        first = number[0] if isinstance(number, list) and number else number
        if isinstance(first, int) and (token := tokenizer.id_to_token(first)) is not None:
            return token
    ends = USUAL_ENDS if role == "eos" else ()
    return next((token for token in ends if tokenizer.token_to_id(token) is not None), None)


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token


def _id(tokenizer: Tokenizer, token: str | None, path: Path) -> int | None:
    found = None if token is None else tokenizer.token_to_id(token)
    if token is not None and found is None:
        raise RecipeError(f"tokenizer: {path}: has no token {token!r}, but a file beside it names it; mend one")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, empty for a file that is not there.

    Raises:
        RecipeError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise RecipeError(f"tokenizer: {path}: not valid JSON: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise RecipeError(f"tokenizer: {path}: must hold an object, not {type(found).__name__}; fetch it again")
    return found
