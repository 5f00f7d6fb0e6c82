"""What the commands share that use a model: which one, with which weights and adapter, and how it draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmx.errors import RecipeError
from llmx.layers import is_override
from llmx.named import split_adapter

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL_OPTIONS = (
    click.option("--device", default="cpu", show_default=True, help='Where to compute: "cpu", "cuda".'),
    click.option(
        "--weights", type=click.Choice(["bf16", "int8", "int4"]), help="Pack the weights: smaller, and faster to read."
    ),
    click.option(
        "--adapter",
        metavar="[NAME=]FOLDER",
        help="Answer with this adapter over RUN: a run with adapter/, or a folder in PEFT's form.",
    ),
)


def model_options(command: Command) -> Command:
    """Add the options that say how a model is loaded."""
    for option in reversed(MODEL_OPTIONS):
        command = option(command)
    return command


def load_model(
    folder: Path,
    *,
    device: str,
    weights: str | None,
    adapter: str | None,
    compiled: bool = False,
    sampler: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> tuple[LanguageModel, str | None]:
    """Load what `model_options` asked for; return it with the name of the adapter that is to answer.

    Raises:
        LlmxError: see `llmx.load`.
    """
    from llmx.api import load

    wrong = [each for each in overrides if not is_override(each)]
    if wrong:
        raise RecipeError(f"{wrong[0]!r}: is no KEY=VALUE; put a prompt of several words in quotes")
    chosen = None if adapter is None else split_adapter(adapter)
    loaded = load(
        folder,
        sampler=sampler,
        overrides=overrides,
        device=device,
        compile=compiled,
        weights=weights,  # type: ignore[arg-type]  # click has seen that it is one of them
        adapters={} if chosen is None else dict([chosen]),
    )
    return loaded, None if chosen is None else chosen[0]
