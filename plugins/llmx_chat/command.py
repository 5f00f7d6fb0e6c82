"""`llmx chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.errors import LlmxError, RecipeError
from llmx.named import split_adapters

if TYPE_CHECKING:
    from llmx_chat.commands import Commands
    from llmx_chat.conversation import Conversation
    from llmx_chat.show import Show

LEAVING = ("exit", "quit", "q")
"""Typed at the terminal these leave, as at many prompts, though no slash is before them."""
PLAIN = {"clear": "/clear"}
"""Commands that are known there without their slash."""


@click.command("chat")
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--system", default="", metavar="TEXT", help="What stands before the chat.")
@click.option("--sampler", multiple=True, metavar="NAME", help="A link of the sampler chain; again for more, in order.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Most tokens of an answer.")
@click.option("--device", default="cpu", show_default=True, help='Where to compute: "cpu", "cuda".')
@click.option(
    "--weights", type=click.Choice(["bf16", "int8", "int4"]), help="Pack the weights: smaller, and faster to read."
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the step first: faster for a small model.")
@click.option(
    "--adapter",
    multiple=True,
    metavar="[NAME=]FOLDER",
    help="An adapter over RUN, which answers; again for more, and /model to change.",
)
def command(
    model: Path,
    overrides: tuple[str, ...],
    system: str,
    sampler: tuple[str, ...],
    seed: int | None,
    max_new_tokens: int | None,
    device: str,
    weights: Any,
    compiled: bool,
    adapter: tuple[str, ...],
) -> None:
    """Talk with the model of RUN: a run folder, its model/, or a Hugging Face folder with a chat template.

    Enter sends, Alt+Enter or a backslash at the end begins a new line; /help lists commands. Ctrl-C stops an answer,
    exit or Ctrl-D leaves. From a pipe each line is a message, and answers alone are printed.

    \b
    llmx chat runs/my-chats
    llmx chat runs/my-chats --sampler greedy --system "Answer briefly."
    printf 'Who are you?\\n' | llmx chat runs/my-chats
    """
    import llmx
    from llmx_chat.commands import Commands
    from llmx_chat.conversation import Conversation
    from llmx_chat.show import Show

    wrong = [each for each in overrides if "=" not in each]
    if wrong:
        raise RecipeError(f"{wrong[0]!r}: is no KEY=VALUE")
    adapters = split_adapters(adapter)
    loaded = llmx.load(
        model,
        sampler=sampler,
        overrides=overrides,
        device=device,
        weights=weights or "stored",
        adapters=adapters,
        compile=compiled,
    )
    talk = Conversation(loaded, system=system, model=next(iter(adapters), None))
    if seed is not None:
        talk.settings.numbers["seed"] = seed
    if max_new_tokens is not None:
        talk.settings.numbers["max_new_tokens"] = max_new_tokens
    show = Show()
    commands = Commands(talk, show.remark)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            _at_terminal(talk, show, commands, model)
        else:
            _from_pipe(talk, show, commands)
    finally:
        talk.close()


def _at_terminal(talk: Conversation, show: Show, commands: Commands, model: Path) -> None:
    from llmx_chat.terminal import Terminal

    terminal = Terminal(talk, show, commands, model.resolve().name)
    show.remark("/help lists commands; Ctrl-C stops an answer; exit or Ctrl-D leaves")
    while True:
        try:
            text = terminal.ask()
        except KeyboardInterrupt:
            show.remark("exit or Ctrl-D leaves")
            continue
        except EOFError:
            return
        if text.strip() in LEAVING:
            return
        text = PLAIN.get(text.strip(), text)
        try:
            if not _turn(talk, show, commands, text, lambda turn: setattr(terminal, "speed", turn.speed())):
                return
        except LlmxError as error:
            show.fault(error)
        except KeyboardInterrupt:  # before the answer, or once more while it was ended
            show.remark("stopped")


def _from_pipe(talk: Conversation, show: Show, commands: Commands) -> None:
    for text in _messages():
        if not _turn(talk, show, commands, text, lambda _: None):
            return


def _messages() -> Iterator[str]:
    """Yield the messages on stdin, one a line; a line that ends in a backslash goes on in the next."""
    held = ""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = held + line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise RecipeError(f"stdin:{number}: is not valid UTF-8: convert it, as with iconv -t UTF-8") from None
        held = text[:-1] + "\n" if text.endswith("\\") else ""
        if not held and text.strip():
            yield text
    if held.strip():
        yield held


def _turn(talk: Conversation, show: Show, commands: Commands, text: str, done: Callable[[Any], None]) -> bool:
    """Do what a line asks for; return whether the conversation goes on.

    Raises:
        LlmxError: it cannot be done, or the answer ended by an error.
    """
    from llmx_chat.commands import Leave

    if not text.strip():
        return True
    dropped = talk.dropped
    try:
        if text.startswith("/") and not text.startswith("//"):
            turn = commands(text)
        else:
            turn = talk.ask(text.removeprefix("/") if text.startswith("//") else text)
    except Leave:
        return False
    if turn is not None:
        show.answer(talk, turn, dropped)
        done(turn)
    return True
