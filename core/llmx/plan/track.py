"""Counts what the operations of a computation hold in memory, and how many floating-point operations they are."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts while it is entered. What a kernel takes within itself is not seen.

    Attributes:
        held: bytes of the tensors that were made since, and are alive.
        flops: of products and attention so far.
        history: `held` after each operation that made a tensor.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.held = 0
        self.flops = 0.0
        self.history: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        for each in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(each, Tensor):
                self._note(each)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.held += storage.nbytes()
            self.history.append(self.held)
            weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.held -= self._sizes.pop(key)
