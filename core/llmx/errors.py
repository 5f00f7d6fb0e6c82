"""Every error llmx raises for a user, one exit code per branch.

A message is one plain line that says where, what was given and what to do; `--debug` shows the traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence


class LlmxError(Exception):
    """Something failed while running."""

    exit_code = 1


class RecipeError(LlmxError):
    """A recipe, a flag or an argument is wrong; nothing was started."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        self.faults: Sequence[str] = faults
        super().__init__("\n".join(faults))


class DataError(RecipeError):
    """The corpus a recipe names is missing, empty, unreadable or too short."""


class PluginError(LlmxError):
    """A plugin that the run needs is missing or broken."""

    exit_code = 3


class MissingPackageError(PluginError):
    """A part's code imports a package that is not installed."""

    def __init__(self, message: str, package: str) -> None:
        self.package = package
        super().__init__(message)


class DivergedError(LlmxError):
    """The loss or the gradient stopped being finite; the weights were not touched by it."""

    exit_code = 4


class CheckpointError(LlmxError):
    """A checkpoint or a model folder is incomplete, altered or of another run."""


class StoppedError(LlmxError):
    """A signal stopped the run after a checkpoint: exit code 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, signum: int, message: str) -> None:
        self.exit_code = 128 + signum
        super().__init__(message)


def place_of(error: BaseException) -> str:
    """Return `file:line` of the innermost frame of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
