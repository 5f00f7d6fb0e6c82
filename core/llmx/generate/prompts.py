"""Beginnings to continue, taken from the held-out text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.data.store import TokenStore
from llmx.generate.decode import REPLACEMENT

if TYPE_CHECKING:
    from llmx.assembly import Run

PROMPT_CHARS = 60
TRIES = 4
"""Passages looked at for each that is taken."""


def held_out_prompts(run: Run, count: int) -> list[str]:
    """Return the beginnings of `count` held-out passages of plain text, spread evenly; fewer when there is less."""
    stores = [TokenStore(folder, "val") for folder in run.tokens_folders] if run.held_out else []
    texts = [store for store in stores if store.tokens and not store.masked]
    if not texts or count == 0:
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
