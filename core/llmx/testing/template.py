"""What a chat template promises: serving begins as training did, content forges nothing, and what was saved says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import jinja2

from llmx.data.encode import Encoded, Encoder, LossMask
from llmx.errors import DataError
from llmx.protocols import Document, Message, Piece, Template
from llmx.testing.chats import CHATS, FORGED, Chat, ChatTokenizer, render
from llmx.testing.corpus import SPECIAL_NAMES
from llmx.testing.frame import NotApplicable, Subject

FILE = "chat_template.jinja"


def special_tokens_are_named(subject: Subject) -> None:
    """The special tokens are known before there is a tokenizer, and one of them ends a turn."""
    first, second = subject.build(None), build(subject)
    assert first.stop, "stop is empty: generation would never end"
    odd = [each for each in (*first.specials, *first.stop) if not (isinstance(each, str) and each)]
    assert not odd, f"{odd[0]!r} is no token"
    found, known = [[*each.specials, each.stop[0]] for each in (first, second)]
    assert found == known, f"specials and stop are {found} without a tokenizer, and {known} with one that has those"
    stray = [token for token in first.stop if token not in first.specials]
    assert not stray, (
        f"stop holds {stray[0]!r}, which is none of specials: a tokenizer that is learned will not have it"
    )
    text = "".join(piece.text for _, chat in written(second) for piece in second.pieces(*chat) if piece.markup)
    missing = [token for token in first.specials if token not in text]
    assert not missing, f"specials holds {missing[0]!r}, which no chat is written with"


def a_chat_begins_with_its_prompt(subject: Subject) -> None:
    """What is served is what was trained: a chat begins with the pieces, and the ids, of the prompt for its end."""
    template = build(subject)
    encoder = Encoder(tokenizer(template), template, LossMask())
    for what, (messages, tools) in written(template):
        if messages[-1].role != "assistant":
            continue
        prompt = template.pieces(messages[:-1], tools, generate=True)
        chat = template.pieces(messages, tools)
        wanted, found = text_of(prompt), text_of(chat)
        assert found.startswith(wanted), (
            f"{what}: the prompt is {tail(wanted)}, and the chat there {tail(found[: len(wanted)])}"
        )
        ids, served = encode(encoder, (messages, tools)).ids.tolist(), encoder.prompt(messages[:-1], tools)
        assert ids[: len(served)] == served, f"{what}: the ids of the prompt are not those that the chat begins with"


def an_answer_is_said(subject: Subject) -> None:
    """Of a question and an answer, the answer and the token that ends it may be trained on, and no word before it."""
    template = build(subject)
    messages = (Message("user", "WHO?"), Message("assistant", "ME."))
    spoken = [piece for piece in template.pieces(messages) if piece.trained and piece.turn == 1]
    text = text_of(spoken)
    assert "ME." in text, f"the answer is not among what is said: {text!r}"
    assert "WHO?" not in text, f"the question is among what the assistant says: {text!r}"
    ends = [token for token in template.stop if text.endswith(token)]
    assert ends, f"what is said ends with {tail(text)}, and with none of stop: {', '.join(template.stop)}"
    assert ends[0] == template.stop[0], f"the turn ends with {ends[0]!r}, which must come first in stop"
    opener = text_of(template.pieces(messages[:1], generate=True))
    pieces = template.pieces(messages)
    before = text_of(pieces[: pieces.index(spoken[0])])
    assert before == opener, f"the answer is said after {tail(before)}, and the prompt ends with {tail(opener)}"


def turns_are_numbered(subject: Subject) -> None:
    """What is said belongs to the message that says it, and comes in the order of the messages."""
    template = build(subject)
    for what, (messages, tools) in written(template):
        pieces = template.pieces(messages, tools)
        said = [piece for piece in pieces if piece.trained]
        lost = [piece for piece in said if piece.turn is None]
        assert not lost, f"{what}: {tail(lost[0].text)} is said by no message"
        turns = [piece.turn for piece in said if piece.turn is not None]
        assert turns == sorted(turns), f"{what}: what is said comes in the order {turns}"
        assert all(0 <= turn < len(messages) for turn in turns), f"{what}: turns {turns} of {len(messages)} messages"
        for turn in set(turns):
            text, message = text_of(piece for piece in said if piece.turn == turn), messages[turn]
            words = message.content.rpartition("</think>")[2].strip()
            assert words in text, f"{what}: message {turn} says {tail(message.content)}, and the pieces {tail(text)}"


def content_forges_nothing(subject: Subject) -> None:
    """A special token that a message names is text: as many are made as for a message that names none."""
    template = build(subject)
    has = tokenizer(template, *SPECIAL_NAMES)
    template = subject.build(has)
    encoder = Encoder(has, template, LossMask())
    names = [*template.specials, *SPECIAL_NAMES]
    for role in ("system", "user", "assistant", "tool"):
        for name in (FORGED, *names):
            roles = ["system"] * (role == "system") + [
                "user",
                "assistant",
                *["tool"] * (role == "tool"),
                "user",
                "assistant",
            ]
            harmless = [Message(each, "x.y") for each in roles]
            forged = [Message(each, f"x{name}y" if each == role else "x.y") for each in roles]
            try:
                wanted, found = (specials(encoder, has, messages) for messages in (harmless, forged))
            except DataError:  # it has no such role
                continue
            assert found == wanted, f"{name!r} in a message of the {role} makes special tokens"


def the_saved_template_says_the_same(subject: Subject) -> None:
    """`chat_template.jinja`, rendered as transformers does, gives the text of the pieces."""
    template = build(subject)
    folder = subject.scratch / "saved"
    folder.mkdir()
    template.save(folder)
    assert (folder / FILE).is_file(), f"save wrote no {FILE}"
    source = (folder / FILE).read_text(encoding="utf-8")
    for what, chat in written(template):
        for generate in (False, True):
            if generate and chat[0][-1].role == "assistant":
                continue
            found = text_of(template.pieces(*chat, generate=generate))
            try:
                wanted = render(source, chat, generate=generate)
            except jinja2.TemplateError as error:
                raise AssertionError(f"{what}: {FILE} refuses what pieces writes: {error}") from error
            at = next((n for n, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), len(found))
            assert found == wanted, f"{what}: {FILE} has {wanted[at : at + 60]!r}, the pieces {found[at : at + 60]!r}"


def nothing_is_kept(subject: Subject) -> None:
    """The same chat has the same pieces whatever was written before, and it is not changed."""
    template = build(subject)
    before = {what: template.pieces(*chat) for what, chat in written(template)}
    other = build(subject)
    for what, chat in reversed(list(written(other))):
        kept = copy.deepcopy(chat)
        assert other.pieces(*chat) == before[what], f"{what}: it is written otherwise the second time"
        assert chat == kept, f"{what}: the chat was changed"


def a_chat_it_cannot_write_is_refused(subject: Subject) -> None:
    """A chat without messages, or with a role that nobody knows, is a DataError and not half a text."""
    template = build(subject)
    for what, messages in {
        "no messages": [],
        "an unknown role": [Message("<|im_end|>", "x"), Message("assistant", "y")],
    }.items():
        try:
            text, said = text_of(template.pieces(messages)), ""
        except DataError as error:
            text, said = "", str(error) or "?"
        assert said, f"{what}: it is written as {text!r}"


def it_travels(subject: Subject) -> None:
    """A copy in another process, where it goes by pickle, writes the same."""
    template = build(subject)
    try:
        copied = pickle.loads(pickle.dumps(template))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(f"it cannot be sent to another process: {error}") from error
    for what, chat in written(template):
        assert copied.pieces(*chat) == template.pieces(*chat), f"{what}: a copy writes it otherwise"


# --- what the checks share ------------------------------------------------------------------------------------------


def build(subject: Subject) -> Template:
    """Build the template with a tokenizer that has its special tokens."""
    made: Template = subject.build(tokenizer(subject.build(None)))
    return made


def tokenizer(template: Template, *more: str) -> ChatTokenizer:
    """Return a tokenizer with the special tokens of a template, and more."""
    return ChatTokenizer((*template.specials, *template.stop, *more))


def written(template: Template) -> Iterator[tuple[str, Chat]]:
    """Yield the chats that a template writes.

    Raises:
        NotApplicable: it writes none.
    """
    found = False
    for what, chat in CHATS.items():
        try:
            template.pieces(*chat)
        except DataError:
            continue
        found = True
        yield what, chat
    if not found:
        raise NotApplicable("it writes none of the kit's chats")


def encode(encoder: Encoder, chat: Chat) -> Encoded:
    """Encode one chat."""
    messages, tools = chat
    return encoder([Document("", "the kit", messages=messages, tools=tools)])[0]


def specials(encoder: Encoder, has: ChatTokenizer, messages: list[Message]) -> list[int]:
    """Return the special tokens of a chat in order."""
    known = set(has.markup.get_added_tokens_decoder())
    return [int(id_) for id_ in encode(encoder, (tuple(messages), ())).ids if int(id_) in known]


def text_of(pieces: Iterator[Piece] | list[Piece]) -> str:
    """Join the text of pieces."""
    return "".join(piece.text for piece in pieces)


def tail(text: str) -> str:
    """Return the end of a text as a message shows it."""
    return repr(text[-60:])


CHECKS = (
    special_tokens_are_named,
    a_chat_begins_with_its_prompt,
    an_answer_is_said,
    turns_are_numbered,
    content_forges_nothing,
    the_saved_template_says_the_same,
    nothing_is_kept,
    a_chat_it_cannot_write_is_refused,
    it_travels,
)
