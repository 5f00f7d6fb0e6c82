"""The command line. `llmx --help` reads names only; a command's module is imported when it is called."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
from typing import Any

import click

from llmx.cli.lazy import LazyGroup

COMMANDS = {
    "run": "Train a model from a recipe, names and overrides.",
    "generate": "Continue a text with a trained model.",
    "eval": "Measure a model: loss on texts and chats, or tasks.",
    "compare": "Ask several models the same questions: speed, agreement, scores, a page to rate on.",
    "export": "Write a model for transformers, vLLM, llama.cpp or PEFT.",
    "data": "Look at, prepare and clean a corpus.",
    "tokenizer": "Learn a tokenizer, or look at one.",
    "report": "Write a page that shows and compares runs.",
    "plugins": "List, install, check and write plugins.",
    "describe": "Show the options of a part.",
    "hooks": "List the hooks with their arguments and contracts.",
    "config": "Show a recipe as it resolves, and where each value is from.",
}
"""Built-in commands in the order of the help; each is `llmx.cli.<name>:command`."""


COMMAND_GROUP = "llmx.commands"
"""Entry points of other distributions' commands; each names a `click.Command`."""


def command_entries() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the commands that other distributions add, by name; nothing is imported."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=COMMAND_GROUP)}


class MainGroup(LazyGroup):
    """Our commands, and those that other distributions add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.table, *sorted(command_entries().keys() - self.table.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        entry = command_entries().get(cmd_name)
        return found if found or entry is None else _load_command(entry)

    def help_rows(self) -> list[tuple[str, str]]:
        others = sorted(command_entries().items())
        from llmx.shipped import shipped_commands

        known = shipped_commands()
        owners = [(name, known.get(name) or f"From {e.dist.name if e.dist else 'a plugin'}.") for name, e in others]
        return super().help_rows() + [(name, text) for name, text in owners if name not in self.table]


def _load_command(entry: importlib.metadata.EntryPoint) -> click.Command:
    """Import another distribution's command.

    Raises:
        PluginError: that fails.
    """
    import traceback

    from llmx.errors import PluginError

    try:
        command: click.Command = entry.load()
    except Exception as error:  # a stranger's module
        owner = entry.dist.name if entry.dist else entry.value
        text = f"command {entry.name!r} of {owner} failed to load: {type(error).__name__}: {error}"
        raise PluginError(f"{text}\n{traceback.format_exc()}") from error
    return command


@click.group(
    cls=MainGroup,
    package="llmx.cli",
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(None, "--version", package_name="llmx", message="llmx %(version)s")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Train, tune and use small and medium language models; every part of a run is a plugin.

    `llmx run` alone trains TinyLLM on the documentation this Python carries.
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with the code of what happened (see `llmx.errors`)."""
    from llmx.errors import LlmxError
    from llmx.native import settle

    given = sys.argv[1:] if arguments is None else arguments
    settle()
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))  # so that what is half made is cleaned up
    try:
        sys.exit(cli.main(given, prog_name="llmx", standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "llmx"
        click.echo(f"llmx: {message} (`{path} --help` lists what there is)", err=True)
        sys.exit(error.exit_code)
    except LlmxError as error:
        fail(error, debug="--debug" in given)
    except BrokenPipeError:  # the reader of the output went away: `llmx plugins | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        fail(LlmxError(f"{where}{error.strerror}"), debug="--debug" in given)
    except (KeyboardInterrupt, click.Abort) as stop:
        notes = getattr(stop.__cause__ or stop, "__notes__", [])  # click makes the one of the other
        click.echo(": ".join(["llmx: interrupted", *notes]), err=True)
        sys.exit(130)


def fail(error: Any, *, debug: bool) -> None:
    """Print an error as its lines, with the traceback if asked, and exit with its code."""
    if debug:
        import traceback

        traceback.print_exception(error)
    for line in "\n".join([str(error), *getattr(error, "__notes__", [])]).splitlines():
        click.echo(f"llmx: {line}" if not line.startswith((" ", "Traceback")) else line, err=True)
    sys.exit(error.exit_code)
