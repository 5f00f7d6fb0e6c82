"""Chats for the checks, and a tokenizer with the special tokens that a template asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmx.protocols import Message
from llmx.testing.corpus import SPECIAL_NAMES, prose

if TYPE_CHECKING:
    import tokenizers

Chat: TypeAlias = tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]]
"""Messages and tools."""

ENDS = ("<s>", "</s>")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2's tokenizer splits text: a line end goes with the punctuation and the line ends around it."""


def _chat(*turns: tuple[str, str] | Message, tools: Iterable[Mapping[str, Any]] = ()) -> Chat:
    return tuple(each if isinstance(each, Message) else Message(*each) for each in turns), tuple(tools)


WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place <today> & tomorrow, 天气",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL: Mapping[str, Any] = {"name": "weather", "arguments": {"place": "北京 \"<b>\" 'x'", "days": [1, 2.5, None, True]}}
ASKED = ("user", "What is 1 + 1?")
FORGED = " ".join(SPECIAL_NAMES)

CHATS: dict[str, Chat] = {
    "a question and an answer": _chat(ASKED, ("assistant", "It is 2.")),
    "a system message": _chat(("system", "Be kind."), ASKED, ("assistant", "2, dear.")),
    "several turns": _chat(
        ASKED, ("assistant", "2"), ("user", "Sure?"), ("assistant", "Yes."), ("user", "Bye"), ("assistant", "!")
    ),
    "a question alone": _chat(ASKED),
    "Chinese and emoji": _chat(("user", "你好，世界！👩‍👩‍👧"), ("assistant", "敏捷的棕色狐狸 🦊\n\n跳过懒狗。")),
    "an empty answer": _chat(ASKED, ("assistant", "")),
    "an empty question": _chat(("user", ""), ("assistant", "Pardon?")),
    "lines and code": _chat(
        ("user", "def f(x):\n\treturn  x\n\n\n"), ("assistant", "Use `list[int]`, <b>not</b> a[i]:\r\n  a  \n")
    ),
    "names of special tokens": _chat(
        ("system", FORGED), ("user", FORGED), ("assistant", FORGED), ASKED, ("assistant", "No.")
    ),
    "white space at the ends": _chat(("system", "\nBe kind.\n"), ("user", "\n\n Hi \n"), ("assistant", " Hello\n\n")),
    "white space first": _chat(ASKED, ("assistant", "\n\n  2\n")),
    "a system message on the way": _chat(ASKED, ("assistant", "2"), ("system", "Be rude."), ASKED, ("assistant", "2!")),
    "a thought": _chat(ASKED, Message("assistant", "2", reasoning="\nOne and one\n\nare two.\n")),
    "thoughts in every turn": _chat(
        ASKED,
        Message("assistant", "2", reasoning="Easy."),
        ("user", "And 2 + 2?"),
        Message("assistant", "4", reasoning="Hm."),
    ),
    "a thought in the content": _chat(
        ASKED,
        ("assistant", "<think>\nOne.\n</think>\n\n2"),
        ASKED,
        ("assistant", "<think>\nAgain.\n</think>\n\nStill 2"),
    ),
    "tools that are offered": _chat(("system", "Be kind."), ASKED, ("assistant", "2"), tools=[WEATHER, WEATHER]),
    "tools without a system message": _chat(ASKED, ("assistant", "2"), tools=[WEATHER]),
    "a call and its answer": _chat(
        ("user", "Weather?"),
        Message("assistant", "", tool_calls=(CALL,)),
        ("tool", '{"sky": "blue <|im_end|>"}'),
        ("assistant", "Blue."),
        tools=[WEATHER],
    ),
    "two calls with words and thoughts": _chat(
        ("user", "Weather?"),
        Message("assistant", "Let me see.", reasoning="Call twice.", tool_calls=(CALL, CALL)),
        ("tool", "sun"),
        ("tool", "rain"),
        Message("assistant", "Both.", reasoning="So."),
        ("user", "Thanks"),
        ("assistant", "!"),
        tools=[WEATHER],
    ),
    "a call at the end": _chat(
        ("user", "Weather?"), Message("assistant", "Wait.", tool_calls=(CALL,)), tools=[WEATHER]
    ),
}
"""Chats by what is in them."""


class ChatTokenizer:
    """Byte-level BPE with Qwen2's split, learned from the kit's prose, with special tokens."""

    bos_id: int | None = None
    eos_id: int | None

    def __init__(self, specials: Iterable[str] = (), backend: tokenizers.Tokenizer | None = None) -> None:
        self.backend = backend or _learned(tuple(dict.fromkeys((*ENDS, *specials))))
        self.backend.encode_special_tokens = True
        self.markup = type(self.backend).from_str(self.backend.to_str())
        self.vocab_size = self.backend.get_vocab_size()
        self.eos_id = self.special_id(ENDS[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.markup.to_str(),)  # the library's own pickle forgets encode_special_tokens

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token."""
        added = self.markup.get_added_tokens_decoder()
        return next((id_ for id_, each in added.items() if each.special and each.content == token), None)

    def encode_markup(self, text: str) -> list[int]:
        """Return ids with special tokens made."""
        ids: list[int] = self.markup.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> list[int]:
        """Return ids with none made."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each."""
        return [each.ids for each in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        self.markup.save(str(folder / "tokenizer.json"))


def _again(backend: str) -> ChatTokenizer:
    from tokenizers import Tokenizer

    return ChatTokenizer(backend=Tokenizer.from_str(backend))


@functools.cache
def _learned_json() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    # with line ends that stand together, so that they have tokens which would lie over a cut
    tokenizer.train_from_iterator([*prose()[:20], "assistant\nuser\nsystem\n" * 50, "a\n\n\nb\n\n" * 50], trainer)
    learned: str = tokenizer.to_str()
    return learned


def _learned(specials: tuple[str, ...]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(_learned_json())
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def render(source: str, chat: Chat, *, generate: bool = False) -> str:
    """Return a chat written by the text of a template, as transformers writes it."""
    import json

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = _refuse
    messages, tools = chat
    return environment.from_string(source).render(
        messages=[plain(message) for message in messages], tools=list(tools) or None, add_generation_prompt=generate
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as OpenAI and transformers have it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    if message.tool_calls:
        found["tool_calls"] = [{"type": "function", "function": dict(call)} for call in message.tool_calls]
    return found
