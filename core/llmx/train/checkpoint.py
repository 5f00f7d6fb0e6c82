"""Checkpoints: whole or not there.

A checkpoint is a folder `checkpoints/step-00000020/` of safetensors and JSON, never pickle. It is written beside
its place, flushed, sealed by a manifest of SHA-256 sums and renamed; the newest folder whose manifest holds is the
latest, and nothing is deleted before its successor is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from llmx.data.store import file_sha256
from llmx.errors import CheckpointError
from llmx.files import fsync, fsync_folder, temporary_beside
from llmx.train.tree import pack, unpack

MANIFEST = "manifest.json"


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def save(checkpoints: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a step and return its folder.

    Args:
        weights: the model's state dict, without shared tensors.
        state: everything else, nested as `llmx.train.tree` allows.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    final = checkpoints / folder_name(step)
    if is_whole(final):
        return final
    temporary = temporary_beside(final)
    try:
        tensors: dict[str, Tensor] = {}
        packed = pack(dict(state), tensors, "state")
        plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(plain, temporary / "model.safetensors")
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(packed), encoding="utf-8")
        seal(temporary)
        if final.exists():  # broken by a kill in an older write; its successor is whole now
            shutil.rmtree(final)
        temporary.rename(final)
        fsync(checkpoints)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def seal(folder: Path) -> None:
    """Write the manifest of a folder's files and flush all of it."""
    sums = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=1), encoding="utf-8")
    fsync_folder(folder)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the state of a checkpoint.

    Raises:
        CheckpointError: its manifest does not hold.
    """
    if not is_whole(folder):
        raise CheckpointError(f"{folder}: the checkpoint is incomplete or altered; resume from another")
    packed = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return load_file(folder / "model.safetensors"), unpack(packed, load_file(folder / "state.safetensors"))


def is_whole(folder: Path) -> bool:
    """Return whether every file of the folder's manifest is there and as it was written."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return all(file_sha256(folder / name) == sha for name, sha in sums.items())
    except (OSError, ValueError, KeyError):
        return False


def step_folders(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first, whole or not."""
    return sorted(checkpoints.glob("step-*")) if checkpoints.exists() else []


def latest(checkpoints: Path) -> Path | None:
    """Return the newest whole checkpoint, or None where none was written.

    Raises:
        CheckpointError: there are some, and all are damaged.
    """
    folders = step_folders(checkpoints)
    newest = next((folder for folder in reversed(folders) if is_whole(folder)), None)
    if folders and newest is None:
        raise CheckpointError(f"{checkpoints}: no checkpoint is whole; put one back, or start a new run")
    return newest


def prune(checkpoints: Path, step: int, keep_last: int, keep: Collection[int]) -> None:
    """Delete what the whole checkpoint of `step` makes superfluous: all but the newest `keep_last` up to it and those
    of the steps in `keep`, those after it (they were not whole, or the run would have gone on from them), and
    half-written ones."""
    kept = {folder_name(each) for each in keep}
    folders = step_folders(checkpoints)
    later = [folder for folder in folders if folder.name > folder_name(step)]
    older = [folder for folder in folders if folder not in later][:-keep_last]
    for folder in later + [folder for folder in older if folder.name not in kept]:
        shutil.rmtree(folder)
    for leftover in checkpoints.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
