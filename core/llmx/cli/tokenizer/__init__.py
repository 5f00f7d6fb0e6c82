"""`llmx tokenizer`: its subcommands are the other modules of this folder."""

from __future__ import annotations

import click

from llmx.cli.lazy import LazyGroup

COMMANDS = {
    "train": "Learn a tokenizer from a corpus.",
    "inspect": "Show what a tokenizer does to a text.",
}


@click.group("tokenizer", cls=LazyGroup, package=__name__, table=COMMANDS)
def command() -> None:
    """Learn a tokenizer, or look at one."""
