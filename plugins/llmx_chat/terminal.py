"""The line where a user types: history, messages of several lines, and completion of commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmx.errors import PluginError
from llmx.terminal import printable
from llmx_chat.commands import HELP, Commands
from llmx_chat.conversation import Conversation
from llmx_chat.files import history_file
from llmx_chat.show import Show

try:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
except ImportError as error:
    raise PluginError("llmx chat: needs the package 'prompt_toolkit': pip install 'llmx[chat]'") from error


class SlashCompleter(Completer):
    """Completes the names of commands, and what `/set` and `/model` take."""

    def __init__(self, talk: Conversation, commands: Commands) -> None:
        self._talk, self._commands = talk, commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for usage, meaning in HELP.items():
                command = usage.split()[0]
                if command.startswith(name):
                    yield Completion(command, -len(name), display=usage, display_meta=meaning)
            return
        others = {"/set": [f"{each}=" for each in self._talk.settings.names()], "/model": self._commands.models()}
        for each in others.get(name, []):
            if each.startswith(rest):
                yield Completion(each, -len(rest))


class Terminal:
    """Asks the user for messages."""

    def __init__(self, talk: Conversation, show: Show, commands: Commands, title: str) -> None:
        self._talk, self._title = talk, title
        self.speed = ""
        self._session: PromptSession[str] = PromptSession(
            history=_history(show),
            completer=SlashCompleter(talk, commands),
            complete_while_typing=True,
            multiline=True,
            key_bindings=_keys(),
            bottom_toolbar=self._toolbar,
            prompt_continuation="  ",
        )

    def ask(self) -> str:
        """Return the next message.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EOFError: Ctrl-D on an empty line.
        """
        return self._session.prompt(FormattedText([("bold", "> ")]))

    def _toolbar(self) -> str:
        talk = self._talk
        name = f"{self._title}{f' + {talk.model}' if talk.model else ''}"
        parts = [name, f"{talk.used_tokens} of {talk.context} tokens", self.speed.strip(", "), str(talk.settings)]
        return " " + printable(" | ".join(filter(None, parts)))


def _history(show: Show) -> History:
    try:
        return FileHistory(str(history_file()))
    except OSError as error:
        show.remark(f"what you type is not kept: {error.filename}: {error.strerror}")
        return InMemoryHistory()


def _keys() -> Any:
    """Return keys: Enter sends, Alt+Enter and Enter after a backslash begin a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
