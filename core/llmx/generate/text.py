"""Text as it becomes certain while tokens come: whole characters, and never the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmx.protocols import Tokenizer

REPLACEMENT = "\ufffd"
MOST_PENDING = 16
"""Tokens after which no character can still be waiting for its first bytes: it has four, and a token spells one."""


class TextStream:
    """The text of one sequence.

    Args:
        stop: strings that end it; none of them is ever shown, in whole or in part.

    Attributes:
        spelled: characters that became certain so far, shown or not.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.spelled = 0
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._start = self._shown = 0  # ids[start:shown] is the context in which the ids after it are read
        self._held = ""  # certain, but perhaps the beginning of a stop string

    def feed(self, token: int) -> str:
        """Return what became certain with a token: a character that spans tokens comes when it is whole."""
        self._ids.append(token)
        before = self._tokenizer.decode(self._ids[self._start : self._shown])
        now = self._tokenizer.decode(self._ids[self._start :])
        if len(now) <= len(before) or now.endswith(REPLACEMENT):
            return self._let_go(before) if len(self._ids) - self._shown > MOST_PENDING else ""
        self._start, self._shown = self._shown, len(self._ids)
        return self._released(now[len(before) :])

    def _let_go(self, before: str) -> str:
        """Return what a long streak of broken bytes spells, but for its end, and forget one that spells nothing: to
        read it whole again at every token would take the square of its length."""
        cut = len(self._ids) - MOST_PENDING // 2
        now = self._tokenizer.decode(self._ids[self._start : cut])
        if len(now) <= len(before):
            del self._ids[self._shown : cut]
            return ""
        self._start, self._shown = self._shown, cut
        return self._released(now[len(before) :])

    def finish(self) -> str:
        """Return what is left when no token follows: bytes that make no character are shown as U+FFFD."""
        if self.stopped:
            return ""
        before = self._tokenizer.decode(self._ids[self._start : self._shown])
        rest = self._released(self._tokenizer.decode(self._ids[self._start :])[len(before) :])
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _released(self, text: str) -> str:
        """Return what may be shown of `text` and what was held back before it."""
        self.spelled += len(text)
        text, self._held = self._held + text, ""
        found = [place for place in (text.find(each) for each in self._stop) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        keep = max((_overlap(text, each) for each in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def stream_text(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text as it becomes certain: a character that spans tokens comes when it is whole."""
    stream = TextStream(tokenizer)
    for token in tokens:
        if piece := stream.feed(token):
            yield piece
    if rest := stream.finish():
        yield rest
