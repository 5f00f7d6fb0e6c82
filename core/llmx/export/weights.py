"""Weights in the type of a file, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import torch
from attrs import frozen

from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import numpy.typing as npt
    from gguf import GGMLQuantizationType

BLOCK_BYTES = 2**26
"""Of fp32 values converted at a time: quantising takes some times as much, and a large vocabulary has gigabytes."""
HF_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@frozen
class Rows:
    """What writes a tensor to a GGUF file.

    Attributes:
        where: the folder and the tensor, for errors.
        order: which row stands at each place; None leaves them.
    """

    where: str
    tensor: torch.Tensor
    type: GGMLQuantizationType
    nbytes: int
    order: torch.Tensor | None

    def tofile(self, file: IO[bytes]) -> None:
        """Write the tensor.

        Raises:
            CheckpointError: a value is too large for the type.
        """
        for part in self._parts():
            _to_numpy(part, self.type, self.where).tofile(file)

    def _parts(self) -> Iterator[torch.Tensor]:
        rows = max(1, BLOCK_BYTES // (4 * max(1, self.tensor[0].numel())))
        for begin in range(0, len(self.tensor), rows):
            chosen = slice(begin, begin + rows) if self.order is None else self.order[begin : begin + rows]
            yield self.tensor[chosen]


def _to_numpy(part: torch.Tensor, kind: GGMLQuantizationType, where: str) -> npt.NDArray[Any]:
    from gguf import GGMLQuantizationType as Kind
    from gguf.quants import quantize

    if kind is Kind.BF16:
        return part.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    if kind is Kind.F16:
        return to_type(part, torch.float16, where).contiguous().numpy()
    return quantize(part.float().contiguous().numpy(), kind)


def to_type(tensor: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    """Return a tensor in a type of weights; what is no floating number stays as it is.

    Raises:
        CheckpointError: a value is beyond what f16 has, 65,504.
    """
    if not tensor.is_floating_point():
        return tensor
    found = tensor.to(dtype)
    if dtype == torch.float16 and not torch.isfinite(found).all() and torch.isfinite(tensor).all():
        raise CheckpointError(f"{where}: has values that f16 cannot hold: use bf16")
    return found
