"""How messages of the kit show texts."""

from __future__ import annotations

SHORT = 60
"""Characters of a text that a message shows."""


def short(text: str) -> str:
    """Return a text as a message shows it."""
    return repr(text) if len(text) <= SHORT else f"{text[:SHORT]!r}..."


def differ(wanted: str, found: str) -> str:
    """Return where two texts part."""
    at = next((n for n, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found)))
    return f"from character {at} on it is {short(found[at:])} and should be {short(wanted[at:])}"
