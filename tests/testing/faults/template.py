"""Chat templates with the mistakes that authors make, and correct ones that are unlike ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from llmx import Component, NoOptions
from llmx.errors import DataError
from llmx.protocols import Message, Piece, Tokenizer

ROLES = ("system", "user", "assistant")


class Tagged:
    """Correct: `<|role|>` begins a turn and `<|end|>` ends it; it has no tools."""

    specials: tuple[str, ...] = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    stop: tuple[str, ...] = ("<|end|>",)
    opener = "<|assistant|>\n"
    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )

    def __init__(self, _options: NoOptions, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        self.check(messages, tools)
        pieces = [piece for turn, message in enumerate(messages) for piece in self.turn(turn, message)]
        return [*pieces, Piece(self.opener, markup=True)] if generate else pieces

    def check(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
        if not messages:
            raise DataError("no messages")
        if tools or any(each.role not in ROLES or each.reasoning or each.tool_calls for each in messages):
            raise DataError("a chat with tools or thoughts")

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [
            Piece(f"<|{message.role}|>\n", markup=True, turn=turn),
            Piece(message.content, markup=False, trained=True, turn=turn),
            Piece("<|end|>", markup=True, trained=True, turn=turn),
            Piece("\n", markup=True, turn=turn),
        ]

    def save(self, folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(self.source, encoding="utf-8")


# --- faults ---------------------------------------------------------------------------------------------------------


class OneSpecialMissing(Tagged):
    """A token of the markup is not in specials, and another is that never comes."""

    specials = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")


class EndsWithWords(Tagged):
    """stop names a token that no tokenizer is asked to have."""

    stop = ("</answer>",)


class AsksTheTokenizer(Tagged):
    """The special tokens are known only once there is a tokenizer."""

    def __init__(self, _options: NoOptions, tokenizer: Tokenizer | None) -> None:
        super().__init__(_options, tokenizer)
        self.specials = () if tokenizer is None else self.specials


class PromptWithASpace(Tagged):
    """The prompt ends with a space that no chat has there."""

    opener = "<|assistant|>\n "


class DropsThePast(Tagged):
    """An earlier answer is left out of a chat, and not out of its prompt."""

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        found = super().pieces(messages, tools, generate=generate)
        last = len(messages) - 1
        gone = {turn for turn, each in enumerate(messages) if each.role == "assistant" and turn < last}
        return found if generate else [piece for piece in found if piece.turn not in gone]


class CutsEarly(Tagged):
    """What is said begins in the middle of what the prompt ends with: other tokens than when it is served."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        begin, *rest = super().turn(turn, message)
        if message.role != "assistant":
            return [begin, *rest]
        said = Piece("\n", markup=True, trained=True, turn=turn)
        return [Piece("<|assistant|>", markup=True, turn=turn), said, *rest]


class NoEnd(Tagged):
    """The end of a turn is not trained: the model never learns to stop."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [evolve(piece, trained=not piece.markup) for piece in super().turn(turn, message)]


class NothingSaid(Tagged):
    """No piece is marked as said."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [evolve(piece, trained=False) for piece in super().turn(turn, message)]


class NoNumbers(Tagged):
    """What is said belongs to no message."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [
            evolve(piece, turn=turn if message.role == "assistant" else None) for piece in super().turn(turn, message)
        ]


class CountsFromOne(Tagged):
    """Messages are counted from 1."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return super().turn(turn + 1, message)


class AllMarkup(Tagged):
    """The whole turn is one text of markup."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [evolve(piece, markup=True) for piece in super().turn(turn, message)]


class SystemAsMarkup(Tagged):
    """The system message is trusted."""

    def turn(self, turn: int, message: Message) -> list[Piece]:
        found = super().turn(turn, message)
        return [evolve(piece, markup=True) for piece in found] if message.role == "system" else found


class SavesAnother(Tagged):
    """What is saved strips the content, and pieces does not."""

    source = Tagged.source.replace("m.content", "m.content.strip()")


class SavesNothing(Tagged):
    """Nothing is saved."""

    def save(self, folder: Path) -> None:
        pass


class Remembers(Tagged):
    """The first system message is kept for the chats that come after."""

    kept: tuple[Message, ...] = ()

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        self.check(messages, tools)
        if messages[0].role == "system":
            self.kept = (messages[0],)
        elif self.kept:
            messages = [*self.kept, *messages]
        return super().pieces(messages, tools, generate=generate)


class AnyRole(Tagged):
    """A role is written as it is: one may spell a special token."""

    def check(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
        if tools or any(each.reasoning or each.tool_calls for each in messages):
            raise DataError("a chat with tools or thoughts")


class HoldsALambda(Tagged):
    """It holds a function that pickle cannot send."""

    def __init__(self, _options: NoOptions, tokenizer: Tokenizer | None) -> None:
        super().__init__(_options, tokenizer)
        self.strip = lambda text: text.strip()


BROKEN: dict[str, tuple[type[Tagged], ...]] = {
    "special-tokens-are-named": (OneSpecialMissing, EndsWithWords, AsksTheTokenizer),
    "a-chat-begins-with-its-prompt": (PromptWithASpace, DropsThePast, CutsEarly),
    "an-answer-is-said": (NoEnd, NothingSaid, CutsEarly),
    "turns-are-numbered": (NoNumbers, CountsFromOne),
    "content-forges-nothing": (AllMarkup, SystemAsMarkup),
    "the-saved-template-says-the-same": (SavesAnother, SavesNothing),
    "nothing-is-kept": (Remembers,),
    "a-chat-it-cannot-write-is-refused": (AnyRole,),
    "it-travels": (HoldsALambda,),
}


# --- correct ones ---------------------------------------------------------------------------------------------------


class Forgetful(Tagged):
    """Only the last answer may be trained on: earlier ones lose their first word, as thoughts are lost."""

    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + (m.content if loop.last or m.role != 'assistant' else "
        "m.content[1:]) + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        self.check(messages, tools)
        pieces: list[Piece] = []
        for turn, message in enumerate(messages):
            old = message.role == "assistant" and turn < len(messages) - 1
            found = self.turn(turn, evolve(message, content=message.content[1:]) if old else message)
            pieces += [evolve(piece, trained=piece.trained and not old) for piece in found]
        return [*pieces, Piece(self.opener, markup=True)] if generate else pieces


class PlainWords(Tagged):
    """The markup is words of any language, and one special token ends a turn."""

    specials = ("<|end|>",)
    opener = "Assistant: "
    source = (
        "{% for m in messages %}{{ m.role.capitalize() + ': ' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
    )

    def turn(self, turn: int, message: Message) -> list[Piece]:
        return [
            Piece(f"{message.role.capitalize()}: ", markup=True, turn=turn),
            Piece(message.content, markup=False, trained=True, turn=turn),
            Piece("<|end|>", markup=True, trained=True, turn=turn),
        ]


def planted(target: type[Tagged]) -> Component:
    """Return a component of a class of this file."""
    return Component(name=target.__name__.lower(), target=f"{__name__}:{target.__name__}")


FAULTS = [(check, planted(target)) for check, targets in BROKEN.items() for target in targets]
"""A check's name and a component that breaks its promise."""

CORRECT = [("*", planted(target)) for target in (Tagged, Forgetful, PlainWords)]
"""Components that no check may accuse."""
