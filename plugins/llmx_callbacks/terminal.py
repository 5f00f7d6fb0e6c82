"""Words of a callback to the person at the terminal."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmx.assembly import Run

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that could move the cursor or worse, all but tab and newline."""


def say(run: Run, text: str) -> None:
    """Print on rank 0. Through `sys.stdout` of this moment: a live view puts itself there, to print above its lines."""
    if not run.world.main:
        return
    encoding = sys.stdout.encoding or "utf-8"
    shown = CONTROL.sub("\ufffd", text).encode(encoding, "replace").decode(encoding)  # a pipe may be no UTF-8
    sys.stdout.write(shown + "\n")
    sys.stdout.flush()
