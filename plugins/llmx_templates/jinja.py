"""A model's own Jinja template: rendered as transformers does, and taken apart into markup and what is said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from llmx.errors import DataError
from llmx.protocols import LOOKS_SPECIAL, Message, Piece, Tokenizer
from llmx_templates import JinjaOptions
from llmx_templates.disguise import Disguise, texts_in
from llmx_templates.meter import OverBudgetError
from llmx_templates.render import Renderer, as_plain
from llmx_templates.source import read_source
from llmx_templates.turns import check, save

SPECIAL = re.compile(LOOKS_SPECIAL)
USUALLY_SPECIAL = re.compile(r"<\|.+\|>|<｜.+｜>|</?s>|<\w+_of_\w+>|\[/?INST\]")
"""What they look like where there is no tokenizer to ask."""
TAG = re.compile(r"</?\w+>")
FIRST = "<["
"""What special tokens begin with."""
PROBE = (Message("user", "Who?"), Message("assistant", "Me."))
MOST_ASKED = 64
"""Turns of an assistant in a prompt that are found, the first ones: each takes two renderings of all before it. They
are where tokens are cut; a later turn is still spelled as in training unless its first characters and the markup that
opens it have a token in common."""


@frozen
class Span:
    """Where a turn says something in a rendered chat."""

    start: int
    end: int
    turn: int


class JinjaTemplate:
    """A template in a sandbox.

    A turn of an assistant may be trained on if the chat before it, with the markup that opens it, and the chat with it
    are both rendered as the beginning of the whole. Of a template that rewrites earlier turns, that is the last one.
    """

    def __init__(self, options: JinjaOptions, tokenizer: Tokenizer | None) -> None:
        source = read_source(options, tokenizer)
        self._renderer = Renderer(source)
        self._tokenizer = tokenizer
        self._known: dict[str, bool] = {}
        literals = "\n".join(self._renderer.constants)
        tags = dict.fromkeys(TAG.findall(literals))
        self.kept = tuple(tag for tag in tags if not self._forbidden(tag))
        self.first = [*FIRST]
        text, end = self._probe()
        spelled = [token for name, token in source.tokens.items() if name in source.text] + SPECIAL.findall(literals)
        # one that the tokenizer lacks counts where every chat has it: its absence is a mistake that must be told
        lacking = [token for token in spelled if token in text and USUALLY_SPECIAL.fullmatch(token)]
        self.specials = tuple(token for token in dict.fromkeys(spelled) if self.is_special(token) or token in lacking)
        self.first = sorted({*FIRST, *(token[0] for token in self.specials)})
        self.stop = tuple(dict.fromkeys(filter(None, (end, source.tokens.get("eos_token")))))

    def is_special(self, text: str) -> bool:
        """Return whether the tokenizer has a special token of that name."""
        if text not in self._known:
            asked = self._tokenizer
            known = USUALLY_SPECIAL.fullmatch(text) if asked is None else asked.special_id(text) is not None
            self._known[text] = bool(known)
        return self._known[text]

    def _forbidden(self, tag: str) -> bool:
        """Return whether content may not make this token; some are made from any text that names them."""
        asked = self._tokenizer
        return self.is_special(tag) and (asked is None or asked.encode(tag) != [asked.special_id(tag)])

    def _probe(self) -> tuple[str, str | None]:
        """Return a short chat, and the special token that ends an assistant's turn in it, None where there is none."""
        try:
            pieces = self.pieces(PROBE)
        except DataError as error:
            if isinstance(error.__cause__, OverBudgetError):
                raise
            return "", None  # it asks for more than a question and an answer
        spoken = "".join(piece.text for piece in pieces if piece.trained)
        found = [token for token in SPECIAL.findall(spoken) if self.is_special(token)]
        return "".join(piece.text for piece in pieces), found[-1] if found else None

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return the chat in order; see `llmx.protocols.Template`."""
        check(messages)
        chat, schemas = [as_plain(message) for message in messages], list(tools)
        disguise = Disguise.for_chat(texts_in([chat, schemas]), self.first, self.kept)
        rendering = Rendering(self._renderer, disguise.put_on(chat), disguise.put_on(schemas))
        text = rendering.whole(generate)
        if disguise.characters and self._renderer(chat, schemas, generate) != disguise.take_off(text):
            raise DataError(f"template {self._renderer.path}: changes {' and '.join(disguise.characters)} in a message")
        wanted = [turn for turn, each in enumerate(messages) if each.role == "assistant" or each.loss]
        pieces: list[Piece] = []
        at = 0
        for span in self._spans(rendering, text, wanted[:MOST_ASKED] if generate else wanted):
            pieces += _cut(disguise, text[at : span.start], None)
            pieces += _cut(disguise, text[span.start : span.end], span.turn)
            at = span.end
        return [*pieces, *_cut(disguise, text[at:], None)]

    def _spans(self, rendering: Rendering, text: str, turns: Sequence[int]) -> Iterator[Span]:
        at = 0
        for turn in turns:
            found = self._span(rendering, text, turn)
            if found is not None and found.start >= at:
                yield found
                at = found.end

    def _span(self, rendering: Rendering, text: str, turn: int) -> Span | None:
        """Return where a turn speaks, None where the template spells it otherwise once others follow."""
        message = rendering.chat[turn]
        before = rendering.before(turn, opened=message["role"] == "assistant")
        after = rendering.before(turn + 1, opened=False)
        if before is None or after is None or not (text.startswith(before) and text.startswith(after)):
            return None
        start, end = len(before), len(after)
        last, end = (start + length for length in self._said(text[start:end]))
        if message["role"] != "assistant":
            content = message["content"].strip()
            start = text.rfind(content, start, last) if content else -1
        return Span(start, end, turn) if 0 <= start <= end else None

    def _said(self, region: str) -> tuple[int, int]:
        """Return how much of the region of a turn is said before the special token that ends it, and with that."""
        end = begin = len(region.rstrip())
        for match in reversed(list(SPECIAL.finditer(region))):
            if region[match.end() : begin].strip() or not self.is_special(match[0]):
                break
            end, begin = match.end(), match.start()
        return begin, end

    def save(self, folder: Path) -> None:
        """Write chat_template.jinja as it was read."""
        save(folder, self._renderer.text)


def _cut(disguise: Disguise, text: str, turn: int | None) -> list[Piece]:
    return [
        Piece(part, markup=not content, trained=turn is not None, turn=turn) for part, content in disguise.parts(text)
    ]


@define
class Rendering:
    """A chat and its beginnings, each rendered once."""

    _renderer: Renderer
    chat: list[dict[str, Any]]
    _tools: list[Any]
    _found: dict[tuple[int, bool], str | None] = field(factory=dict)

    def whole(self, generate: bool) -> str:
        """Return the chat."""
        text = self._renderer(self.chat, self._tools, generate)
        self._found[len(self.chat), generate] = text
        return text

    def before(self, turn: int, *, opened: bool) -> str | None:
        """Return the chat before a turn, None where the template refuses to write that."""
        if turn == 0 and not opened:
            return ""
        if (turn, opened) not in self._found:
            try:
                self._found[turn, opened] = self._renderer(self.chat[:turn], self._tools, opened)
            except DataError:
                self._found[turn, opened] = None
        return self._found[turn, opened]
