"""What a conversation looks like: answers as they come, thoughts and remarks dimmed."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from llmx.errors import LlmxError
from llmx.terminal import printable
from llmx_chat.conversation import Conversation, Turn
from llmx_chat.live import Live, unseen_keys

DIM, RED, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


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
            if self.terminal:
                self._show_live(turn)
            else:
                self._pass_on(turn)
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

    def _show_live(self, turn: Turn) -> None:
        """Write what comes, thoughts dimmed, with the speed below it."""
        live, before = Live(self.file), None
        with unseen_keys():
            try:
                for said in turn:
                    if said.kind == "content" and before == "reasoning":
                        live.write("\n")
                    before, text = said.kind, printable(said.text)
                    styled = self._styled(text, DIM if said.kind == "reasoning" else "")
                    speed = turn.speed().strip(", ")
                    live.write(styled, text, speed and self._styled(speed, DIM))
            finally:
                live.close()

    def _pass_on(self, turn: Turn) -> None:
        """Write the answer as it is; thoughts are no part of what a program reads."""
        for said in turn:
            if said.kind == "content":
                self._write(said.text)

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{PLAIN}" if self._colour and style else text

    def _write(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()
