"""A click group whose commands are named in a table and imported when they are called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of commands `<package>.<name>:command`.

    Args:
        package: where the commands' modules are.
        table: one line of help by name, in the order of the help.
    """

    def __init__(self, *args: Any, package: str, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.package = package
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's, with the nearest names beside one that there is not: click looks for them in a table of its own,
        which is empty here."""
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-")) and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=2)
            ctx.fail(f"No such command {name!r}" + (f"; nearest: {', '.join(near)}" if near else "."))
        return super().resolve_command(ctx, args)

    def help_rows(self) -> list[tuple[str, str]]:
        """Return (name, help) of every command, importing none."""
        return list(self.table.items())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.help_rows())
