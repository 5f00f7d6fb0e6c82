"""Weights of a model folder: safetensors files and their index, read memory-mapped and written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
SHARD_BYTES = 5 * 10**9
"""Most bytes of tensors in one file: transformers' own measure."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
KINDS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch's name of a type, and that of safetensors."""


# --- reading --------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder.

    Raises:
        CheckpointError: it is missing or does not parse.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no {path.name}: not a model folder") from None
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def weight_files(folder: Path) -> dict[str, Path]:
    """Return which file of a folder holds each tensor; a single file goes before an index, as in transformers.

    Raises:
        CheckpointError: there is none, one that the index names is missing, or they do not hold what it says.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        if not (folder / WEIGHTS).exists():
            raise CheckpointError(f"{folder}: no {WEIGHTS}; weights are read from safetensors only{_instead(folder)}")
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    listed = _listed(folder)
    names = sorted(set(listed.values()))
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        missing = f"({len(lacking)} of {len(names)} shards missing)"
        raise CheckpointError(f"{folder}: lacks the shard {lacking[0]} that {INDEX} names {missing}: fetch it again")
    held = {key: folder / name for name in names for key in _names(folder / name)}
    wrong = next((key for key in sorted(listed) if held.get(key) != folder / listed[key]), None)
    if wrong is not None:
        raise CheckpointError(f"{folder}: {INDEX} says that {wrong} is in {listed[wrong]}, which is not so: fetch both")
    return held


def _listed(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the index."""
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{folder / INDEX}: damaged: has no weight_map: fetch it again")
    for name in listed.values():
        if not isinstance(name, str) or Path(name).name != name:  # a path could lead out of the folder
            raise CheckpointError(f"{folder / INDEX}: damaged: {name!r} is no file of the folder")
    return listed


def _instead(folder: Path) -> str:
    """Return what to say of the weights that a folder without safetensors has."""
    if (folder / ADAPTER).exists():
        return f"; {ADAPTER} says that this is an adapter, not a model: name it as one, and give its base"
    for pattern in PICKLES:
        found = sorted(path.name for path in folder.glob(pattern))
        if found:
            return f", and {found[0]} is a pickle, which may run code: convert it with transformers' save_pretrained"
    return ""


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged: {error}: fetch it again") from None


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a folder's safetensors files, memory-mapped.

    Raises:
        CheckpointError: there is none, or one that the index names is missing.
    """
    files = weight_files(folder)
    for path in dict.fromkeys(files.values()):
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                yield key, file.get_tensor(key)


def load_folder(model: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Give a model built on the meta device the weights of a folder, memory-mapped: a page is read when it is used.

    Args:
        dtype: type of the weights; a tensor of another one is converted, one at a time, and its pages given back.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, unexpected or of another shape.
    """
    files, weights = weight_files(folder), dict(read_weights(folder))
    require_fitting(model, weights, folder)
    for name, weight in weights.items():
        if dtype is not None and weight.dtype != dtype and weight.is_floating_point():
            with _opened(files[name]) as file:  # of its own: what is mapped is counted as memory until it is closed
                weights[name] = file.get_tensor(name).to(dtype)
    model.load_state_dict(weights, assign=True)


def load_weights(model: Any, weights: dict[str, Tensor], where: Path) -> None:
    """Give a model built on the meta device its weights.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
    """
    require_fitting(model, weights, where)
    model.load_state_dict(weights, assign=True)


def require_fitting(model: Any, weights: dict[str, Tensor], where: Path) -> None:
    """Check that weights are those of a model; what it shares with another parameter is taken out of them.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
    """
    kept = model.state_dict().keys()
    wanted = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if n in kept}}
    tied = {name: weights.pop(name) for name in getattr(model, "tied_names", ()) if name in weights}
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        what = f"lacks {missing[0]}" if missing else f"has the unexpected {unexpected[0]}"
        raise CheckpointError(f"{where}: {what} ({len(missing)} missing, {len(unexpected)} unexpected tensors)")
    for name, parameter in wanted.items():
        if parameter.shape != weights[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(weights[name].shape)}, the config says {list(parameter.shape)}"
            )
    _require_tied(model, weights, tied, where)


def _require_tied(model: Any, weights: Mapping[str, Tensor], tied: Mapping[str, Tensor], where: Path) -> None:
    """Check that a tied head that is stored twice (some writers do) is the same both times."""
    import torch

    if not tied:
        return
    head = model.head_weight()
    shared = next((name for name, parameter in model.named_parameters() if parameter is head), None)
    for name, weight in tied.items():
        if shared is not None and not torch.equal(weight, weights[shared]):
            raise CheckpointError(
                f"{where}: {name} is not {shared}, and the config says that they are tied (tie_word_embeddings): set "
                "that to false to use both, or take the one out"
            )


# --- writing --------------------------------------------------------------------------------------------------------


def write_weights(folder: Path, weights: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as safetensors, in one file or in shards with an index; at most one is copied at a time.

    Args:
        shard_bytes: most bytes of tensors in a file; a larger tensor has one of its own.
    """
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, weight in weights.items():
        size = weight.numel() * weight.element_size()
        if shards[-1] and held + size > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = weight
        held += size
    if len(shards) == 1:
        _write_file(folder / WEIGHTS, shards[0])
        return
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    listed = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file: the library would first copy what is not in one piece on the CPU, all of it."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # so that each begins at its own size
    for name, weight in ordered:
        start, end = end, end + weight.numel() * weight.element_size()
        kind = KINDS[str(weight.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, weight in ordered:
            plain = weight.detach().cpu().contiguous().reshape(-1)
            file.write(plain.view(torch.uint8).numpy().data)
