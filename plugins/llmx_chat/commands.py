"""What begins with a slash: commands to the program, not to the model."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from llmx.errors import RecipeError
from llmx_chat.conversation import Conversation, Turn
from llmx_chat.files import load_chat, save_chat

HELP = {
    "/clear": "begin anew, as does clear; what the system says stays",
    "/system TEXT": "what stands before the chat, from the next message on; without TEXT nothing does",
    "/retry": "ask again what was asked last, in place of its answer",
    "/save FILE": "add the chat to a file of JSON lines that llmx trains on",
    "/load FILE": "go on from the last chat of a file",
    "/set NAME=VALUE": "temperature=0.3, top-p=0.9, top-k=off, max_new_tokens=50, seed=7; alone it shows them",
    "/model NAME": "which model answers, of the base and its adapters; alone it shows them",
    "/help": "this; a message that begins with a slash is written with two",
    "/exit": "leave; so do exit, quit, q and Ctrl-D",
}


class Leave(Exception):  # noqa: N818  # it is no error
    """The user is done."""


class Commands:
    """Runs commands on a conversation; `say` is given what they have to tell."""

    def __init__(self, talk: Conversation, say: Callable[[str], None]) -> None:
        self._talk, self._say = talk, say

    def __call__(self, line: str) -> Turn | None:
        """Run one command, and return the answer it asked for, if it did.

        Raises:
            Leave: the user is done.
            LlmxError: it cannot be done.
        """
        name, _, rest = line.strip().partition(" ")
        known = [each.split()[0] for each in HELP]
        if name == "/quit":
            name = "/exit"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(f"{name}: no such command; {'nearest: ' + near[0] if near else '/help lists them'}")
        run: Callable[[str], Turn | None] = getattr(self, f"_{name[1:]}")
        return run(rest.strip())

    def _clear(self, _: str) -> None:
        self._talk.forget()
        self._say("the chat is empty")

    def _system(self, text: str) -> None:
        self._talk.system = text
        self._say("the system says it from the next message on" if text else "the system says nothing")

    def _retry(self, _: str) -> Turn:
        return self._talk.retry()

    def _save(self, file: str) -> None:
        path = _path("/save", file)
        count = save_chat(path, self._talk.system, self._talk.messages)
        self._say(f"{count} messages added to {path}")

    def _load(self, file: str) -> None:
        path = _path("/load", file)
        self._talk.replace(load_chat(path))
        self._say(f"{len(self._talk.messages)} messages of {path}")

    def _set(self, given: str) -> None:
        if given:
            self._talk.settings.change(given)
        self._say(str(self._talk.settings) or "no sampler: draws from the model's own probabilities")

    def _model(self, name: str) -> None:
        names = self.models()
        if name and name not in names:
            raise RecipeError(f"/model {name}: no such model; there are: {', '.join(names)}")
        if name:
            self._talk.model = name
        self._say(", ".join(f"[{each}]" if each == (self._talk.model or names[0]) else each for each in names))

    def _help(self, _: str) -> None:
        width = max(map(len, HELP))
        self._say("\n".join(f"{name:{width}}  {meaning}" for name, meaning in HELP.items()))

    def _exit(self, _: str) -> None:
        raise Leave

    def models(self) -> list[str]:
        """Return the names of what may answer."""
        return ["base", *self._talk.loaded.adapted]


def _path(command: str, file: str) -> Path:
    if not file:
        raise RecipeError(f"{command}: needs a file: {command} chats.jsonl")
    return Path(file)
