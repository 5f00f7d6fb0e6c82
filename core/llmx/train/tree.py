"""State dicts as JSON and tensors, so that a checkpoint needs no pickle.

Nested dicts, lists, tuples, numbers, strings, None and tensors go out and come back equal, keys of dicts too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pack(state: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Return `state` as JSON values, with its tensors put into `tensors` under names that begin with `path`.

    Raises:
        TypeError: something in it is of another type; the message has its path.
    """
    if isinstance(state, Tensor):
        tensors[path] = state.detach().cpu().contiguous()
        return {"tensor": path}
    if state is None or isinstance(state, bool | int | float | str):
        return {"value": state}
    if isinstance(state, dict):
        items = [[pack(key, tensors, path), pack(value, tensors, f"{path}.{key}")] for key, value in state.items()]
        return {"dict": items}
    if isinstance(state, list | tuple):
        kind = "tuple" if isinstance(state, tuple) else "list"
        return {kind: [pack(value, tensors, f"{path}.{index}") for index, value in enumerate(state)]}
    raise TypeError(f"{path}: a {type(state).__name__} cannot be saved: use tensors, numbers, strings, lists, dicts")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `pack` was given."""
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {unpack(key, tensors): unpack(each, tensors) for key, each in value}
    if kind in ("list", "tuple"):
        items = [unpack(each, tensors) for each in value]
        return tuple(items) if kind == "tuple" else items
    return value


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every global random generator a part may draw from."""
    import random

    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` returned."""
    import random

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
