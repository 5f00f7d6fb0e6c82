"""What a conversation looks like: answers as they come, thoughts and remarks dimmed."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from llmx.errors import LlmxError
from llmx_chat.conversation import Conversation, Turn

DIM, RED, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal acts on, but for tab and the end of a line: a model's text only ever shows."""


class Show:
    """Writes to the terminal; where there is none only the answers, as they are."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.file = file or sys.stdout
        self.terminal = self.file.isatty()
        self._colour = self.terminal and "NO_COLOR" not in os.environ

    def remark(self, text: str, style: str = DIM) -> None:
        """Write lines of ours: on the terminal dimmed, elsewhere to stderr."""
        for line in text.splitlines():
            if self.terminal:
                self._write(self._styled(printable(line), style) + "\n")
            else:
                sys.stderr.write(f"llmx: {line}\n")

    def fault(self, error: LlmxError) -> None:
        """Write what went wrong."""
        self.remark(str(error), RED)

    def answer(self, talk: Conversation, turn: Turn, dropped_before: int) -> None:
        """Write an answer as it comes; Ctrl-C ends it, and what was shown of it stays in the chat.

        Raises:
            LlmxError: it ended by an error.
        """
        if talk.dropped > dropped_before:
            said = f"the {talk.dropped} oldest messages are left out" if talk.dropped > 1 else "one message is left out"
            self.remark(f"the context of {talk.context} tokens is full: {said}")
        stopped, whole = False, False
        try:
            self._stream(turn)
            whole = True
        except KeyboardInterrupt:
            turn.stop()
            stopped = whole = True
        finally:
            left = turn.keep()
            if whole or any(turn.said.values()):
                self._write("\n")
            figures = f"{'stopped after ' if stopped else ''}{turn.figures()}" if whole else ""
            if self.terminal and (figures or left):
                self.remark(": ".join(filter(None, [figures, left])))
        if stopped and not self.terminal:
            raise KeyboardInterrupt

    def _stream(self, turn: Turn) -> None:
        before = None
        for said in turn:
            if said.kind == "content" and before == "reasoning":
                self._write("\n")
            if self.terminal:
                self._write(self._styled(printable(said.text), DIM if said.kind == "reasoning" else ""))
                before = said.kind
            elif said.kind == "content":  # thoughts are no part of what a program reads
                self._write(said.text)

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{PLAIN}" if self._colour and style else text

    def _write(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


def printable(text: str) -> str:
    """Return text in which characters that a terminal would act on are shown as pictures of themselves."""
    return CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)
