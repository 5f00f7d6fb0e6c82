"""Keeps the clients of trackers away from the accounts and the settings of whoever runs the checks."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

CLIENTS = ("WANDB_", "SWANLAB_", "TRACKIO_", "HF_", "HUGGING_FACE_", "XDG_")
"""How the variables begin that say where a client sends what, as whom, and where it keeps its files."""

OFFLINE = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline"}
"""For a logger that has no option for it."""


@functools.cache
def _home() -> str:
    """Make one home for all checks: a client may still write to it after a run, and remember it for the process."""
    folder = tempfile.mkdtemp(prefix="llmx-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_ours(name: str) -> bool:
    return name in ("HOME", "USERPROFILE", "NETRC") or name.startswith(CLIENTS)


@contextmanager
def no_account() -> Iterator[None]:
    """Let clients find an empty home and none of their variables, so that they know no account; then put all back."""
    before = {name: value for name, value in os.environ.items() if _is_ours(name)}
    _replace({"HOME": _home(), "USERPROFILE": _home(), **OFFLINE})
    try:
        yield
    finally:
        _replace(before)


def _replace(variables: dict[str, str]) -> None:
    for name in [name for name in os.environ if _is_ours(name)]:
        del os.environ[name]
    os.environ.update(variables)
