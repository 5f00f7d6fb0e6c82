"""SIGINT and SIGTERM end a run after the step at hand; a second one ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Give a list that receives the number of a signal, where signals can be caught (the main thread)."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(signum: int, _: FrameType | None) -> None:
        if received:
            raise SystemExit(128 + signum)
        received.append(signum)
        sys.stderr.write("llmx: stopping after this step; once more stops at once\n")

    before = {each: signal.signal(each, receive) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
