"""Progress of the work before the first step: a live line on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 60.0
"""Between lines where stderr is no terminal: enough to see in a log that hours of work go on."""


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Give a function that is called with the count so far; on a terminal the line goes when the work ends."""
    if not sys.stderr.isatty():
        yield _log(what, unit)
        return
    from rich.console import Console

    began = time.monotonic()
    with Console(stderr=True).status(what) as status:
        yield lambda count: status.update(_line(what, unit, count, time.monotonic() - began))


def _line(what: str, unit: str, count: int, seconds: float) -> str:
    rate = f", {count / seconds:,.0f} a second" if seconds > 1 else ""
    return f"{what}: {count:,} {unit}{rate}"


def _log(what: str, unit: str) -> Callable[[int], None]:
    """Return a function that writes a line every `EVERY_S` seconds."""
    began = told = time.monotonic()

    def report(count: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= EVERY_S:
            told = now
            sys.stderr.write(f"llmx: {_line(what, unit, count, now - began)}\n")

    return report
