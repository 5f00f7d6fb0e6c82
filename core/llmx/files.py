"""Writing so that a kill at any moment leaves either the old or the new, and never a half."""

from __future__ import annotations

import errno
import json
import os
import uuid
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or of one's share of it, that has no room left."""


def temporary_beside(path: Path) -> Path:
    """Make and return a new folder next to `path`, on the same file system, to be renamed to it."""
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    return temporary


def fsync_folder(folder: Path) -> None:
    """Flush every file of a folder and the folder itself to the disk, with the permissions that the user's files have:
    safetensors lets nobody else read what it writes, and a server may run as another user."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (*folder.iterdir(), folder):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)
        fsync(path)


def fsync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # where the disk is full
    fsync(path.parent)


def kept_bytes(path: Path, step: int) -> int:
    """Return how many bytes of a JSON-lines file a run resumed at `step` keeps: to its first later or broken row."""
    kept = 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return kept
            if not line.endswith(b"\n") or not isinstance(row, dict) or row.get("step", step + 1) > step:
                return kept  # half written by a kill, no row of ours, or of a later step
            kept += len(line)
    return kept
