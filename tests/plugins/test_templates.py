"""The chat templates: their text is transformers', their saved Jinja is theirs, and their turns are the right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from llmx import NoOptions
from llmx.errors import DataError, RecipeError
from llmx.protocols import Message, Piece, Template
from llmx.testing.chats import CHATS, Chat, ChatTokenizer, plain
from llmx_templates import JinjaOptions, Qwen3Options
from llmx_templates.chatml import ChatmlTemplate
from llmx_templates.jinja import MOST_ASKED, JinjaTemplate
from llmx_templates.llama import LlamaTemplate
from llmx_templates.qwen3 import Qwen3Template

FILE = "chat_template.jinja"
HERE = Path(__file__).parent
QWEN3 = (HERE / "qwen3.jinja").read_text(encoding="utf-8")
"""The template that Qwen published with Qwen3-8B, word for word."""
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""The one that Meta published with Llama 3."""
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The one that ChatML models are usually published with."""
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% else %}{{ '<｜User｜>' + m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
"""In the way of DeepSeek-R1: thoughts in the content are dropped, and roles are special tokens."""
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
"""In the way of Mistral: no markup but for the user, and nothing opens an answer."""
SIMPLE = {
    "a question and an answer",
    "a system message",
    "several turns",
    "a question alone",
    "white space at the ends",
}
SEVERAL = '[{"name": "tool_use", "template": "x"}, {"name": "default", "template": "c"}]'
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def jinja(source: str, folder: Path, tokenizer: ChatTokenizer | None = None, **options: Any) -> JinjaTemplate:
    """Return the template of a folder that holds this one."""
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(source, encoding="utf-8")
    return JinjaTemplate(
        JinjaOptions(path=str(folder), **options), tokenizer or tokenizer_for("<|im_start|>", "<|im_end|>")
    )


def tokenizer_for(*specials: str) -> ChatTokenizer:
    """Return a tokenizer with special tokens, one that begins a text too."""
    made = ChatTokenizer(specials)
    made.bos_id = made.special_id("<s>")
    return made


def builtin(folder: Path) -> dict[str, Template]:
    """Every built-in template, with its options."""
    return {
        "chatml": ChatmlTemplate(NoOptions(), None),
        "llama": LlamaTemplate(NoOptions(), None),
        "qwen3": Qwen3Template(Qwen3Options(), None),
        "qwen3, not thinking": Qwen3Template(Qwen3Options(thinking=False), None),
        "jinja": jinja(QWEN3, folder / "model"),
    }


NAMES = ("chatml", "llama", "qwen3", "qwen3, not thinking", "jinja")


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def said(pieces: list[Piece], turn: int) -> str:
    return "".join(piece.text for piece in pieces if piece.trained and piece.turn == turn)


def by_transformers(source: str, chat: Chat, *, generate: bool = False, **more: Any) -> str:
    """Return a chat as transformers renders it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(ChatTokenizer().backend.to_str()), **TOKENS)
    messages, tools = chat
    text: str = tokenizer.apply_chat_template(
        [plain(each) for each in messages],
        tools=[dict(tool) for tool in tools] or None,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=generate,
        **more,
    )
    return text


@pytest.mark.parametrize("generate", [False, True], ids=["whole", "prompt"])
@pytest.mark.parametrize("what", CHATS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_transformers_writes(name: str, what: str, generate: bool, tmp_path: Path) -> None:
    """apply_chat_template with the saved file gives the text of the pieces."""
    template = builtin(tmp_path)[name]
    template.save(tmp_path)
    wanted = by_transformers((tmp_path / FILE).read_text(encoding="utf-8"), CHATS[what], generate=generate)
    assert text_of(template.pieces(*CHATS[what], generate=generate)) == wanted


@pytest.mark.parametrize("what", CHATS)
def test_qwen3_is_the_published_template(what: str) -> None:
    """Every chat and every prompt is what the published file writes, and that file is what is saved."""
    template = Qwen3Template(Qwen3Options(), None)
    for generate in (False, True):
        text = text_of(template.pieces(*CHATS[what], generate=generate))
        assert text == by_transformers(QWEN3, CHATS[what], generate=generate)


def test_qwen3_saves_the_published_template(tmp_path: Path) -> None:
    """Byte for byte, so that a tuned model is served as the one it came from."""
    Qwen3Template(Qwen3Options(), None).save(tmp_path)
    assert (tmp_path / FILE).read_text(encoding="utf-8") == QWEN3


@pytest.mark.parametrize("what", [what for what in CHATS if "thought" not in what])
def test_qwen3_without_thinking_has_the_published_prompt(what: str) -> None:
    """What is served is what the published template writes with enable_thinking=False."""
    template = Qwen3Template(Qwen3Options(thinking=False), None)
    text = text_of(template.pieces(*CHATS[what], generate=True))
    assert text == by_transformers(QWEN3, CHATS[what], generate=True, enable_thinking=False)


@pytest.mark.parametrize("what", sorted(SIMPLE))
def test_llama_and_chatml_are_the_published_ones(what: str) -> None:
    """Where the published ones know all that is in a chat."""
    for generate in (False, True):
        llama = LlamaTemplate(NoOptions(), None).pieces(*CHATS[what], generate=generate)
        meta = by_transformers(LLAMA3.replace("bos_token", "'<|begin_of_text|>'"), CHATS[what], generate=generate)
        assert text_of(llama) == meta
        chatml = ChatmlTemplate(NoOptions(), None).pieces(*CHATS[what], generate=generate)
        assert text_of(chatml) == by_transformers(CHATML, CHATS[what], generate=generate)


@pytest.mark.parametrize("what", CHATS)
def test_a_jinja_of_ours_is_taken_apart_as_we_do(what: str, tmp_path: Path) -> None:
    """For the Jinja of a template written in Python too, what turns say is the same, found another way."""
    for name, template in builtin(tmp_path).items():
        (tmp_path / "own").mkdir(exist_ok=True)
        template.save(tmp_path / "own")
        own = JinjaTemplate(JinjaOptions(path=str(tmp_path / "own")), tokenizer_for(*template.specials))
        chat, turns = CHATS[what], [n for n, each in enumerate(CHATS[what][0]) if each.role == "assistant"]
        mine, found = template.pieces(*chat), own.pieces(*chat)
        assert [said(found, turn) for turn in turns] == [said(mine, turn) for turn in turns], name
        assert sorted(own.specials) == sorted(template.specials)
        assert own.stop[0] == template.stop[0]


def test_qwen3_trains_on_the_turns_it_would_write_again() -> None:
    """Turns before the last question lost their thoughts, and so did a step that had none: neither is trained on."""
    template = Qwen3Template(Qwen3Options(), None)
    messages, tools = CHATS["thoughts in every turn"]
    pieces = template.pieces(messages, tools)
    assert said(pieces, 1) == ""
    assert said(pieces, 3) == "<think>\nHm.\n</think>\n\n4<|im_end|>"
    messages, tools = CHATS["two calls with words and thoughts"]
    pieces = template.pieces(messages[:5], tools)
    assert said(pieces, 1).startswith("<think>\nCall twice.\n</think>\n\nLet me see.\n<tool_call>")
    assert said(pieces, 4) == "<think>\nSo.\n</think>\n\nBoth.<|im_end|>"
    messages, tools = CHATS["a call and its answer"]
    assert said(template.pieces(messages, tools), 1) == ""
    assert said(template.pieces(messages, tools), 3) == "<think>\n\n</think>\n\nBlue.<|im_end|>"


def test_qwen3_without_thinking_is_silent() -> None:
    """Thoughts are left out, and the mark of an empty one belongs to the prompt."""
    pieces = Qwen3Template(Qwen3Options(thinking=False), None).pieces(*CHATS["thoughts in every turn"])
    assert said(pieces, 3) == "4<|im_end|>"
    assert "Hm." not in text_of(pieces)
    assert text_of(pieces).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n")


def test_chatml_and_llama_train_on_every_turn() -> None:
    """Each turn is spelled as when it was the last."""
    for template in (ChatmlTemplate(NoOptions(), None), LlamaTemplate(NoOptions(), None)):
        for messages, tools in CHATS.values():
            pieces = template.pieces(messages, tools)
            for turn, message in enumerate(messages):
                if message.role == "assistant":
                    assert said(pieces, turn).endswith(template.stop[0])
                    prefix = text_of(template.pieces(messages[: turn + 1], tools))
                    assert text_of(pieces).startswith(prefix)


def test_other_jinja_templates_are_taken_apart(tmp_path: Path) -> None:
    """Special tokens are found by the tokenizer, ends by what follows the answer, and rewritten turns are left out."""
    deepseek = ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
    template = jinja(DEEPSEEK, tmp_path, tokenizer_for(*deepseek))
    assert sorted(template.specials) == sorted(("<s>", *deepseek))
    assert template.stop == ("<｜end▁of▁sentence｜>", "</s>")
    thinking = (Message("user", "Q"), Message("assistant", "<think>t</think>A <｜User｜>"), Message("user", "R"))
    pieces = template.pieces([*thinking, Message("assistant", "B")])
    assert text_of(pieces) == by_transformers(DEEPSEEK, ((*thinking, Message("assistant", "B")), ()))
    assert said(pieces, 1) == "A <｜User｜><｜end▁of▁sentence｜>"
    assert [piece.markup for piece in pieces if "User｜>" in piece.text] == [True, True, True]
    assert not [piece for piece in pieces if piece.markup and piece.text.count("<｜User｜>") > 1]

    template = jinja(MISTRAL, tmp_path, tokenizer_for("[INST]", "[/INST]"))
    chat = CHATS["several turns"]
    pieces = template.pieces(*chat)
    assert text_of(pieces) == by_transformers(MISTRAL, chat)
    assert [said(pieces, turn) for turn in (1, 3, 5)] == [" 2</s>", " Yes.</s>", " !</s>"]
    with pytest.raises(DataError, match=r"Roles must alternate"):
        template.pieces(*CHATS["a system message"])


def test_a_prompt_is_cut_where_training_cut_it(tmp_path: Path) -> None:
    """Where earlier answers begin, up to a number of them: their places take a rendering each of all before."""
    template = jinja(CHATML, tmp_path)
    turns = [Message(("user", "assistant")[number % 2], "\n\nb") for number in range(2 * MOST_ASKED + 601)]
    short = turns[: 2 * MOST_ASKED + 1]
    places = [piece.turn for piece in template.pieces(short, generate=True) if piece.trained]
    assert list(dict.fromkeys(places)) == [number for number, each in enumerate(short) if each.role == "assistant"]
    asked: list[int] = []
    render = template._renderer
    template._renderer = lambda chat, tools, generate: asked.append(len(chat)) or render(chat, tools, generate)  # type: ignore[assignment, func-returns-value]
    text = text_of(template.pieces(turns, generate=True))
    assert text == by_transformers(CHATML, (tuple(turns), ()), generate=True)
    assert len(asked) <= 2 * MOST_ASKED + 2
    assert sum(asked) <= 2 * MOST_ASKED**2 * 2 + 2 * len(turns)


def test_turns_of_others_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    """A message of the user whose loss is set has its words among what is said; without that it has none."""
    template = jinja(CHATML, tmp_path)
    asked = Message("user", " What? ")
    pieces = template.pieces([asked, Message("assistant", "That.")])
    assert said(pieces, 0) == ""
    pieces = template.pieces([Message("user", " What? ", loss=True), Message("assistant", "That.")])
    assert said(pieces, 0) == "What? <|im_end|>"
    assert said(ChatmlTemplate(NoOptions(), None).pieces([asked]), 0) == " What? <|im_end|>"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({FILE: "a"}, "a"),
        ({"tokenizer_config.json": '{"chat_template": "b"}'}, "b"),
        ({"tokenizer_config.json": f'{{"chat_template": {SEVERAL}}}'}, "c"),
        ({"chat_template.json": '{"chat_template": "d"}', "tokenizer_config.json": "{}"}, "d"),
        ({FILE: "e", "tokenizer_config.json": '{"chat_template": "x"}'}, "e"),
        ({FILE: "{{ bos_token }}f", "tokenizer_config.json": '{"bos_token": {"content": "<B>"}}'}, "<B>f"),
        ({FILE: "{{ eos_token }}g", "special_tokens_map.json": '{"eos_token": "<E>"}'}, "<E>g"),
        ({FILE: "{{ bos_token }}h"}, "<s>h"),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_folder_says_where_its_template_is(files: dict[str, str], found: str, tmp_path: Path) -> None:
    """In any of the forms that models are published in, with special tokens by name."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    template = JinjaTemplate(JinjaOptions(path=str(tmp_path)), tokenizer_for())
    assert text_of(template.pieces([Message("user", "x")])) == found


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "", "has neither chat_template.jinja nor a chat_template in tokenizer_config.json"),
        ({}, "none.jinja", "none.jinja': No such file"),
        ({"x.json": "{}"}, "x.json", "holds no chat_template"),
        ({"x.json": "{"}, "x.json", "not valid JSON"),
    ],
)
def test_a_folder_without_a_template_is_an_error(
    files: dict[str, str], path: str, message: str, tmp_path: Path
) -> None:
    """One line that says where, and what to set."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as caught:
        JinjaTemplate(JinjaOptions(path=str(tmp_path / path)), None)
    assert len(str(caught.value).splitlines()) == 1


def test_thinking_can_be_set_for_a_folder(tmp_path: Path) -> None:
    """What the option says is in the file that is saved, so that transformers sees it too."""
    template = jinja(QWEN3, tmp_path, thinking=False)
    text = text_of(template.pieces(*CHATS["a question alone"], generate=True))
    assert text == by_transformers(QWEN3, CHATS["a question alone"], generate=True, enable_thinking=False)
    template.save(tmp_path)
    saved = (tmp_path / FILE).read_text(encoding="utf-8")
    assert by_transformers(saved, CHATS["a question alone"], generate=True) == text


def test_a_template_of_another_family_is_told(tmp_path: Path) -> None:
    """Special tokens of every chat that the tokenizer lacks are in specials, so that the encoder can say so."""
    assert jinja(CHATML, tmp_path, tokenizer_for()).specials == ("<|im_start|>", "<|im_end|>")


def test_the_date_does_not_pass(tmp_path: Path) -> None:
    """A template that asks for today's date is told one that stays."""
    template = jinja("{{ strftime_now('%d %b %Y') }}", tmp_path, date="2025-01-31")
    assert text_of(template.pieces([Message("user", "x")])) == "31 Jan 2025"
