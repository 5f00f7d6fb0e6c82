"""Every error llmx raises for a user, one exit code per branch.

A message is one plain line that says where, what was given and what to do; `--debug` shows the traceback.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from pathlib import Path


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


class PromptTooLongError(RecipeError):
    """A prompt leaves no room in the model's context."""


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


OURS = str(Path(__file__).parent) + os.sep
BETWEEN = (f"{os.sep}pluggy{os.sep}", f"{os.sep}importlib{os.sep}", "<frozen ", f"{os.sep}click{os.sep}")


def place_of(error: BaseException) -> str:
    """Return `file:line` where a stranger's code went wrong: its own innermost line, not one of a library it called.

    Its own file is the first that is neither of the core nor of what calls plugins; where there is none, the place is
    that of the innermost frame.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f.filename for f in frames if not f.filename.startswith(OURS) and not any(b in f.filename for b in BETWEEN)]
    found = [frame for frame in frames if not own or frame.filename == own[0]]
    return f"{found[-1].filename}:{found[-1].lineno}" if found else "unknown place"
