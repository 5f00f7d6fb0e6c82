"""Content in disguise: no special token can be spelled with it while a template handles it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from llmx.errors import DataError

PRIVATE = range(0xE000, 0xF900)
"""Characters that no text should hold; some of them that a chat does not hold stand for others."""


@frozen
class Disguise:
    """Characters that special tokens begin with, exchanged for others one by one, so that lengths stay.

    Args:
        characters: what is exchanged, and for what.
        kept: tags that stay as they are, since the template looks for them in the content: `</think>`.
    """

    characters: Mapping[str, str]
    kept: tuple[str, ...]

    @classmethod
    def for_chat(cls, texts: Iterable[str], first: Iterable[str], kept: Iterable[str]) -> Disguise:
        """Choose characters that the chat does not hold."""
        whole = "\0".join(texts)
        free = (chr(code) for code in PRIVATE if chr(code) not in whole and f"\\u{code:04x}" not in whole)
        try:
            return cls({each: next(free) for each in first if each in whole}, tuple(kept))
        except StopIteration:
            raise DataError("a chat holds every private character there is: clean it") from None

    @property
    def pattern(self) -> re.Pattern[str]:
        """What is looked for in content: tags that are kept, and characters that are exchanged."""
        return re.compile("|".join(map(re.escape, (*self.kept, *self.characters))))

    def put_on(self, value: Any) -> Any:
        """Return a value with every text in it disguised, roles and the names of JSON's own keys too."""
        if not self.characters:
            return value
        pattern = self.pattern
        return _each_text(value, lambda text: pattern.sub(lambda match: self.characters.get(match[0], match[0]), text))

    def take_off(self, text: str) -> str:
        """Return a text as it was."""
        return text.translate({ord(new): old for old, new in self.characters.items()})

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the parts of a rendered text, and whether each was disguised and is content for certain."""
        if not self.characters:
            yield text, False
            return
        back = {new: old for old, new in self.characters.items()}
        for part in re.split(f"([{''.join(back)}]+)", text):
            if part:
                yield self.take_off(part), part[0] in back


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key) if isinstance(key, str) else key: _each_text(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(each, change) for each in value]
    return value


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from (key,) if isinstance(key, str) else ()
            yield from texts_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each)
