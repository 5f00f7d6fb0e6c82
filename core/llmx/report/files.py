"""From run folders to files: which runs, under which names, written where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llmx.files import write_atomically
from llmx.page import write_as_ours
from llmx.report.facts import Facts, read_facts
from llmx.report.page import MARK, render

PAGE = "report.html"


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of one or several run folders and return where it is.

    Raises:
        RecipeError: a folder holds no run or no metrics, or `out` holds something else.
        LlmxError: `out` cannot be written.
    """
    return write_page(read_runs(runs), out)


def read_runs(folders: Sequence[Path]) -> list[Facts]:
    """Return the facts of each run folder once, in the order given.

    Raises:
        RecipeError: a folder holds no run, or no metrics.
    """
    given = list({folder.resolve(): folder for folder in folders}.items())
    names = [path.name for path, _ in given]
    return [read_facts(folder, name_of(path, folder, names)) for path, folder in given]


def name_of(path: Path, given: Path, names: Sequence[str]) -> str:
    """Return what a run is called: its folder's name, or as much of its path as was given if two are alike."""
    return path.name if names.count(path.name) == 1 else os.path.normpath(given)


def default_out(folders: Sequence[Path]) -> Path:
    """Return where the page of these runs goes unless it was said: into the run, or here if there are several."""
    return folders[0] / PAGE if len({folder.resolve() for folder in folders}) == 1 else Path(PAGE)


def write_page(runs: Sequence[Facts], out: Path) -> Path:
    """Write the page of runs that were read, and return where it is.

    Raises:
        RecipeError: `out` holds something else.
        LlmxError: `out` cannot be written.
    """
    text = render(runs)
    write_as_ours(out, MARK.encode(), lambda: write_atomically(out, text))
    return out
