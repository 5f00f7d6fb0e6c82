"""What a model is asked to continue or to answer: a user's own, or taken from the held-out documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.corpora import build_dataset
from llmx.data.encode import Encoder
from llmx.data.split import split_over
from llmx.data.store import TokenStore
from llmx.errors import DataError, PromptTooLongError, RecipeError
from llmx.generate.messages import message_of
from llmx.generate.text import REPLACEMENT
from llmx.protocols import Message, Model, Tokenizer

if TYPE_CHECKING:
    from llmx.assembly import Run

PROMPT_CHARS = 60
TRIES = 4
"""Passages looked at for each that is taken."""
MOST_READ = 5_000
"""Documents of a source that are read again to find held-out chats."""


@frozen
class ChatPrompt:
    """A chat that an assistant is to answer. As a string it is what was said last."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.messages[-1].content


def as_prompts(given: Any) -> str | ChatPrompt | list[str]:
    """Return what a program asks for: a text, several texts, or the chat that several turns are.

    Raises:
        RecipeError: it is none of these.
    """
    if isinstance(given, str | ChatPrompt):
        return given
    turns = list(given) if isinstance(given, Iterable) and not isinstance(given, Mapping | bytes) else []
    if turns and all(isinstance(each, str) for each in turns):
        return turns
    if not turns or not all(isinstance(each, Message | Mapping) for each in turns):
        raise RecipeError("prompt: give a text, a list of texts, or a chat, a list of turns with role and content")
    return ChatPrompt(tuple(map(as_message, turns)))


def as_message(turn: Message | Mapping[str, Any]) -> Message:
    """Return a turn of a chat that a program gave as a table in OpenAI's form.

    Raises:
        RecipeError: it is not in that form.
    """
    if isinstance(turn, Message):
        return turn
    for name in ("role", "content"):
        if name not in turn and not (name == "content" and turn.get("tool_calls")):
            raise RecipeError(f"prompt: a turn lacks {name!r}")
    try:
        return message_of(turn, "prompt")
    except DataError as error:
        raise RecipeError(str(error)) from error


def prompt_ids(prompt: str, model: Model, tokenizer: Tokenizer) -> list[int]:
    """Return the ids a model sees for a prompt, the beginning token included.

    Raises:
        RecipeError: the prompt is empty for a tokenizer without a beginning token, or fills the context.
    """
    require_utf8("prompt", prompt)
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    if not ids:
        raise RecipeError("prompt: is empty, and the tokenizer has no token to begin with: give some text")
    return check_length(ids, model)


def require_utf8(where: str, text: str) -> None:
    """Check that a text can be encoded: what was no UTF-8 came as lone surrogates, from arguments and from stdin.

    Raises:
        RecipeError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError(f"{where}: is not valid UTF-8: convert it, as with iconv -t UTF-8") from None


def check_length(ids: list[int], model: Model) -> list[int]:
    """Return the ids of a prompt, having seen that the model has room for more.

    Raises:
        PromptTooLongError: they fill the context.
    """
    if len(ids) >= model.context_length:
        raise PromptTooLongError(
            f"prompt: is {len(ids)} tokens long; the model's context of {model.context_length} leaves no room: "
            "shorten it"
        )
    return ids


def prompts_of(run: Run) -> Sequence[str | ChatPrompt]:
    """Return the prompts of the recipe, or the beginnings of held-out documents where it gives none.

    Where every source of the run holds chats, a prompt is asked as a user's message.
    """
    options = run.recipe.generate
    chats = run.template is not None and all(TokenStore(each, "train").masked for each in run.tokens_folders)
    if options.prompts:
        return [ChatPrompt((Message("user", each),)) if chats else each for each in options.prompts]
    if run.held_out is None or options.samples == 0:
        return []
    if chats:
        return list(itertools.islice(_held_out_chats(run), options.samples))
    return _held_out_texts(run, options.samples)


def _held_out_chats(run: Run) -> Iterator[ChatPrompt]:
    """Yield held-out chats up to the first turn of an assistant, each once, those that leave room for an answer."""
    datasets = [build_dataset(run.recipe, source) for source in run.recipe.sources]
    split = split_over(run.recipe.data.held_out, datasets)
    encoder, seen = Encoder(run.tokenizer, run.template), set()
    for dataset in datasets:
        for name, document in itertools.islice(split(dataset), MOST_READ):
            turns = tuple(itertools.takewhile(lambda message: message.role != "assistant", document.messages))
            prompt = ChatPrompt(turns, document.tools)
            if name == "train" or not turns or repr(prompt) in seen:
                continue
            seen.add(repr(prompt))
            if len(encoder.prompt(turns, document.tools)) <= run.model.context_length // 2:
                yield prompt


def _held_out_texts(run: Run, count: int) -> list[str]:
    """Return the beginnings of `count` held-out passages of plain text, spread evenly; fewer when there is less."""
    stores = [TokenStore(folder, "val") for folder in run.tokens_folders]
    texts = [store for store in stores if store.tokens and not store.masked]
    if not texts:
        return []
    prompts = []
    tries = TRIES * count
    for index in range(tries):
        store = texts[index % len(texts)]
        start = store.tokens * index // tries
        ids, documents, _ = store.read(start, min(200, store.tokens - start))
        later = (documents != documents[0]).nonzero()  # where the next document begins, if it is near
        text = run.tokenizer.decode(ids[int(later[0]) :].tolist() if len(later) else ids.tolist())
        text = _beginning(text if len(later) or index == 0 else text.partition("\n")[2] or text)
        most = run.model.context_length // 4  # the rest of the context is for what the model adds
        prompts.append(run.tokenizer.decode(run.tokenizer.encode(text)[:most]).rstrip(REPLACEMENT))
    found = [prompt for prompt in dict.fromkeys(prompts) if prompt]
    return sorted(found, key=_plain, reverse=True)[:count]


def _plain(text: str) -> float:
    """Return the share of letters and spaces: tables and code make poor beginnings."""
    return sum(character.isalpha() or character == " " for character in text) / len(text)


def _beginning(text: str) -> str:
    """Return the first words of a text, or its first characters where words are not set apart."""
    text = text.strip()[:PROMPT_CHARS]
    head, _, _ = text.rpartition(" ")
    return (head or text[: PROMPT_CHARS // 3]).strip()
