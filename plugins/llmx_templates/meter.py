"""A budget of work for rendering a template: characters, steps and seconds of this thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import SecurityError

UNITS = 8_000_000
"""Units that a rendering has at least; a character made is one, so that memory stays in tens of megabytes."""
UNITS_PER_CHARACTER = 50
"""Units more for every character of the chat: templates look at a message several times."""
SECONDS = 1.0
"""Processor time of the thread that a rendering has at least; a template in use takes about a millisecond."""
ITEM = 16
"""Units for an element of a list, which is that much more than a character to hold."""
STEP = 20
"""Units for a step of any kind, so that the clock is looked at."""
LOOK = 100_000
"""Units between looks at the clock."""


class OverBudgetError(SecurityError):
    """A template asks for more work than a chat can need."""


class Meter(threading.local):
    """What is left of the budget, in each thread for itself; nothing may be rendered outside of `running`."""

    left = 0
    due = 0
    ends = 0.0

    @contextmanager
    def running(self, characters: int) -> Iterator[None]:
        """Give the budget of one rendering of a chat of that many characters."""
        self.left = UNITS + UNITS_PER_CHARACTER * characters
        self.due = 0
        self.ends = time.thread_time() + SECONDS * (1 + characters / 1e6)
        try:
            yield
        finally:
            self.left = 0

    def charge(self, units: int) -> None:
        """Take off work that is about to be done.

        Raises:
            OverBudgetError: there is not so much left.
        """
        self.left -= units + STEP
        self.due -= units + STEP
        if self.left < 0:
            raise OverBudgetError("it makes more text or takes more steps than a chat can need")
        if self.due < 0:
            self.due = LOOK
            if time.thread_time() > self.ends:
                raise OverBudgetError("it takes longer than a chat can need")

    def look(self) -> None:
        """Look at the clock soon: something was done that may take a thousandth of a second."""
        self.due -= LOOK // 20

    def weigh(self, value: Any, per_character: int = 1, indent: int = 0) -> None:
        """Take off as much as it takes to write a value out or to compare it, with all that is in it.

        A list that holds another one twice counts it twice, since that is what is written.

        Args:
            indent: characters that each level of nesting adds to a line.
        """
        waiting = [(value, 1)]
        while waiting:
            each, depth = waiting.pop()
            if isinstance(each, str):
                self.charge(len(each) * per_character)
            elif isinstance(each, Mapping):
                self.charge(len(each) * (2 * ITEM + indent * depth))
                waiting += ((part, depth + 1) for pair in each.items() for part in pair)
            elif isinstance(each, list | tuple):
                self.charge(len(each) * (ITEM + indent * depth))
                waiting += ((part, depth + 1) for part in each)
            else:
                self.charge(0)

    def size(self, value: Any) -> int:
        """Return the units it takes to hold a value, without what is in it."""
        if isinstance(value, str):
            return len(value)
        return len(value) * ITEM if isinstance(value, list | tuple | Mapping) else 0
