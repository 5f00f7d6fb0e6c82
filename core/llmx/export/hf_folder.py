"""A model folder in the Hugging Face layout as another, its weights in the type that is wanted."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.errors import CheckpointError
from llmx.export.weights import HF_TYPES, to_type
from llmx.pretrained import CONFIG, INDEX, WEIGHTS, read_json
from llmx.weights import weight_files

OTHERS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".py", ".pkl", ".gguf", ".onnx", ".h5", ".msgpack"})
"""Endings of files that are left behind: code, pickles, and weights in other forms."""
DTYPE_NAMES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}
"""Types of the safetensors header that are converted, with the bytes of a number."""


@frozen
class HfPlan:
    """What a folder will hold: every file with its bytes.

    Attributes:
        type: a key of `HF_TYPES`; None leaves the weights as they are.
    """

    folder: Path
    type: str | None
    files: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def plan_hf(folder: Path, type_: str | None) -> HfPlan:
    """Return what a copy of a model folder will hold.

    Raises:
        CheckpointError: it is no model folder, or lacks a file of weights.
    """
    read_json(folder / CONFIG)
    names = sorted({path.name for path in weight_files(folder).values()})
    plain = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in (".safetensors", *OTHERS)]
    files = {path.name: path.stat().st_size for path in plain}
    if names == [WEIGHTS]:  # an index beside it is of shards that are not read
        files.pop(INDEX, None)
    return HfPlan(folder, type_, {**files, **{name: _size(folder / name, type_) for name in names}})


def _size(path: Path, type_: str | None) -> int:
    """Return the bytes of a file of weights once it is in a type."""
    size, header = path.stat().st_size, _header(path)
    if type_ is None:
        return size
    width = HF_TYPES[type_].itemsize
    for values in header.values():
        if (old := DTYPE_NAMES.get(values["dtype"])) is not None:
            size += math.prod(values["shape"]) * (width - old)
    return size


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(file.read(min(length, path.stat().st_size)))
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged: {error}") from None
    header.pop("__metadata__", None)
    return header


def write_hf(plan: HfPlan, out: Path, report: Callable[[int], object]) -> None:
    """Fill an existing empty folder.

    Args:
        report: called with the megabytes written so far.

    Raises:
        CheckpointError: a value does not fit the type.
    """
    done = 0
    for name, size in plan.files.items():
        if not name.endswith(".safetensors") or plan.type is None:
            shutil.copyfile(plan.folder / name, out / name)
        else:
            _convert(plan.folder / name, out / name, plan.type)
        done += size
        report(done // 10**6)
    if plan.type is not None:
        _tell_type(out, plan.type)


def _convert(source: Path, path: Path, type_: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = {}
    with safe_open(source, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # not a dict
            tensors[name] = to_type(file.get_tensor(name), HF_TYPES[type_], f"{source}: {name}")
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata or {"format": "pt"})


def _tell_type(out: Path, type_: str) -> None:
    """Say the type where readers look for it, in both spellings where both were there."""
    config = read_json(out / CONFIG)
    named = str(HF_TYPES[type_]).removeprefix("torch.")
    config |= {key: named for key in ("dtype", "torch_dtype") if key == "dtype" or key in config}
    _write_json(out / CONFIG, config)
    if (out / INDEX).exists():
        index = read_json(out / INDEX)
        sizes = [_header(out / name).values() for name in sorted(set(index["weight_map"].values()))]
        total = sum(each["data_offsets"][1] - each["data_offsets"][0] for shard in sizes for each in shard)
        _write_json(out / INDEX, {**index, "metadata": {**index.get("metadata", {}), "total_size": total}})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
