"""Documents to tokens: plain text whole, chats by their template, with a mark on every token that is trained on."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen

from llmx.data.spelling import Span, Speller
from llmx.errors import DataError, RecipeError
from llmx.protocols import Document, Message, Template, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
"""Raised when the same document, template and tokenizer come to give other ids or marks."""
_ASKED = (Message("user", "Who?"), Message("assistant", "Me."), Message("user", "You?"), Message("assistant", "Yes."))
_CALLED = (
    Message("user", "Sky?"),
    Message("assistant", "Wait.", reasoning="Look.", tool_calls=({"name": "see", "arguments": {"at": [1, "b"]}},)),
    Message("tool", "blue"),
    Message("assistant", "Blue.", reasoning="So."),
)
_TOOL = {"type": "function", "function": {"name": "see", "parameters": {"type": "object", "properties": {}}}}
PROBES: tuple[tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]], ...] = (
    (_ASKED, ()),
    ((Message("system", "Be kind."), *_ASKED), ()),
    ((Message("system", "Be kind."), *_ASKED), (_TOOL,)),
    (_ASKED, (_TOOL,)),
    ((*_ASKED[:3], Message("assistant", "Yes.", reasoning="So.")), ()),
    (_CALLED, (_TOOL,)),
    ((Message("system", "Be kind."), *_CALLED, *_ASKED), (_TOOL,)),
    ((*_CALLED, Message("user", "You?", loss=True), _CALLED[1]), ()),
)
"""Chats that show what a template's options change beside its text."""


@frozen(eq=False)
class Encoded:
    """The tokens of a document.

    Attributes:
        ids: int32.
        trained: whether each token is trained on; None where every one is.
        text_bytes: UTF-8 bytes of the text that the trained tokens spell, special tokens aside.
        lost_turns: turns that were to be trained on and are not, since the template spells them otherwise once others
            follow.
        boundary: of a preference pair, where its rejected document begins; 0 where there is one document.
    """

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_] | None
    text_bytes: int
    lost_turns: int = 0
    boundary: int = 0


@frozen
class LossMask:
    """Which turns of a chat are trained on, where a message does not say so itself.

    Attributes:
        roles: whose turns.
        turns: all of those, or the last one of each chat.
    """

    roles: tuple[str, ...] = ("assistant",)
    turns: str = "all"

    def wanted(self, messages: Sequence[Message], first: int = 0) -> list[bool]:
        """Return for each message whether it is to be trained on; none before `first` is."""
        ours = [message.role in self.roles for message in messages]
        if self.turns == "last":
            last = max((number for number, each in enumerate(ours) if each), default=-1)
            ours = [number == last for number in range(len(ours))]
        ours = [each if message.loss is None else message.loss for each, message in zip(ours, messages, strict=True)]
        return [number >= first and each for number, each in enumerate(ours)]


class Encoder:
    """Encodes documents with a tokenizer and a chat template.

    Args:
        template: None where chats are not expected.
        mask: which turns are trained on.
        options: those of the template that it does not write into a model folder, as JSON values.
        pairs: documents are preference pairs, each the two chats of its one prompt; only what follows the prompt is
            trained on. A document that is none becomes a pair with nothing to predict, which rows leave out and count.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | None,
        mask: LossMask | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        pairs: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.mask = mask or LossMask()
        self.pairs = pairs
        self._options = dict(options or {})
        self._around = tokenizer.bos_id, tokenizer.eos_id
        self._speller: Speller | None = None

    def __call__(self, documents: Sequence[Document]) -> list[Encoded]:
        """Encode documents, all their texts in one call of the tokenizer.

        Raises:
            DataError: the template cannot write a chat.
            RecipeError: there are chats, and no template or none that fits the tokenizer.
        """
        texts: list[str] = []
        if self.pairs:
            both = [None if not each.rejected else self._plan_pair(each, texts) for each in documents]
            many = self._encode(texts)
            return [_NO_PAIR if plan is None else _pair(*(self._chat(side, many) for side in plan)) for plan in both]
        plans = [self._plan(document, texts) for document in documents]
        many = self._encode(texts)
        return [
            self._plain(document, many[plan]) if isinstance(plan, int) else self._chat(plan, many)
            for document, plan in zip(documents, plans, strict=True)
        ]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Return the ids that a model is given to speak next; those that its chats began with in training."""
        template, speller = self._chat_parts("prompt")
        texts: list[str] = []
        spans = speller.spans(template.pieces(messages, tools, generate=True), _roles(messages), (), texts)
        many = self._encode(texts)
        return [int(id_) for span in spans for id_ in span.ids(many)]

    def identity(self) -> dict[str, Any]:
        """Return what decides ids and marks besides the tokenizer's files, as JSON values."""
        found = {
            "encoding": FORMAT,
            "tokenizer": _class_of(self.tokenizer),  # two may save the same file and read it otherwise
            "template": None,
            "roles": list(self.mask.roles),
            "turns": self.mask.turns,
        }
        if self.pairs:
            found["pairs"] = True
        if self.template is not None:
            found["template"] = f"{_class_of(self.template)} {template_hash(self.template)}"
            found["template_options"] = self._options
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_speller": None}  # it is made again where it is used

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        quick = getattr(self.tokenizer, "encode_arrays", None)
        many = self.tokenizer.encode_batch(texts) if quick is None else quick(texts)
        return [np.asarray(ids, np.int32) for ids in many]

    def _plan(self, document: Document, texts: list[str]) -> int | Plan:
        if not document.messages:
            texts.append(document.text)
            return len(texts) - 1
        return self._plan_chat(document, texts)

    def _plan_pair(self, document: Document, texts: list[str]) -> tuple[Plan, Plan]:
        """Plan the two chats of a pair, the better one first."""
        first = document.shared_turns
        worse = evolve(document, messages=(*document.messages[:first], *document.rejected), rejected=())
        return self._plan_chat(document, texts, first), self._plan_chat(worse, texts, first)

    def _plan_chat(self, document: Document, texts: list[str], first: int = 0) -> Plan:
        template, speller = self._chat_parts(document.origin)
        wanted = self.mask.wanted(document.messages, first)
        messages = [
            evolve(message, loss=True) if each and message.role != "assistant" and not message.loss else message
            for message, each in zip(document.messages, wanted, strict=True)
        ]
        try:
            pieces = template.pieces(messages, document.tools)
        except DataError as error:
            raise DataError(f"{document.origin}: {error}") from error
        spoken = {piece.turn for piece in pieces if piece.trained}
        lost = sum(each and number not in spoken for number, each in enumerate(wanted))
        counted = {number for number, each in enumerate(wanted) if each}
        return Plan(speller.spans(pieces, _roles(messages), counted, texts), lost)

    def _chat_parts(self, origin: str) -> tuple[Template, Speller]:
        """Return the template and what spells it, having seen that it fits the tokenizer."""
        if self.template is None:
            raise RecipeError(
                f"{origin}: is a chat, and there is no template to write it with, since plain text comes before it: "
                "make texts and chats two sources (data.sources)"
            )
        if self._speller is None:
            lacking = [token for token in self.template.specials if self.tokenizer.special_id(token) is None]
            if lacking:
                raise RecipeError(
                    f"template: the tokenizer lacks its special tokens {', '.join(lacking)}: name the template of the "
                    "tokenizer's own family, or let a tokenizer be learned, which gets them"
                )
            self._speller = Speller(self.tokenizer, self.template.specials)
        return self.template, self._speller

    def _plain(self, document: Document, ids: NDArray[np.int32]) -> Encoded:
        """Put the beginning and end tokens that the tokenizer has around a text."""
        begin, end = (np.array([] if id_ is None else [id_], np.int32) for id_ in self._around)
        return Encoded(np.concatenate([begin, ids, end]), None, len(document.text.encode("utf-8", "surrogatepass")))

    def _chat(self, plan: Plan, many: Sequence[NDArray[np.int32]]) -> Encoded:
        parts = [span.ids(many) for span in plan.spans]
        if any(span.changes for span in plan.spans):
            marks = _joined([span.marks(many) for span in plan.spans], np.bool_)
        else:
            marks = np.repeat([span.trained for span in plan.spans], [len(ids) for ids in parts])
        size = sum(span.text_bytes for span in plan.spans)
        return Encoded(_joined(parts, np.int32), marks, size, plan.lost_turns)


_NO_PAIR = Encoded(np.zeros(2, np.int32), np.zeros(2, np.bool_), 0, 0, 1)
"""In place of a document that is no pair: two documents of one token, in which nothing follows anything."""


def _pair(better: Encoded, worse: Encoded) -> Encoded:
    """Join the chats of a pair."""
    assert better.trained is not None
    assert worse.trained is not None
    return Encoded(
        np.concatenate([better.ids, worse.ids]),
        np.concatenate([better.trained, worse.trained]),
        better.text_bytes + worse.text_bytes,
        better.lost_turns + worse.lost_turns,
        len(better.ids),
    )


@frozen
class Plan:
    """How a chat is put together from encoded texts."""

    spans: list[Span]
    lost_turns: int


def template_hash(template: Template) -> str:
    """Return the hash of what a template writes into a model folder, and of how it takes a few chats apart."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as scratch:
        template.save(Path(scratch))
        for path in sorted(Path(scratch).rglob("*")):
            digest.update(path.relative_to(scratch).as_posix().encode() + b"\0" + path.read_bytes())
    for messages, tools in PROBES:
        try:
            pieces = [(each.text, each.markup, each.trained, each.turn) for each in template.pieces(messages, tools)]
        except DataError:  # not every template writes every chat
            pieces = []
        digest.update(repr(pieces).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _class_of(part: object) -> str:
    kind = type(part)
    return f"{kind.__module__}:{kind.__qualname__}"


def _joined(parts: Iterable[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _roles(messages: Sequence[Message]) -> list[str]:
    return [message.role for message in messages]
