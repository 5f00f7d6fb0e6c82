"""`llmx data`: its subcommands are the other modules of this folder."""

from __future__ import annotations

import click

from llmx.cli.lazy import LazyGroup

COMMANDS = {
    "inspect": "Look at a corpus as a run would read it: counts, lengths, what is trained.",
    "prepare": "Encode a corpus into the cache, as a run does by itself.",
    "clean": "Write a corpus without what is broken, empty or double.",
}


@click.group("data", cls=LazyGroup, package=__name__, table=COMMANDS)
def command() -> None:
    """Look at, prepare and clean the text that a model is trained on."""
