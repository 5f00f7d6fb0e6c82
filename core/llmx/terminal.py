"""What a terminal may be given of a text that a model wrote."""

from __future__ import annotations

import re

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal acts on, but for tab and the end of a line: a model's text only ever shows."""


def printable(text: str) -> str:
    """Return text in which characters that a terminal would act on are shown as pictures of themselves."""
    return CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)
