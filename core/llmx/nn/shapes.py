"""Tensors that have a shape and no numbers, as a plan computes with them."""

from __future__ import annotations

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def only_shape(tensor: Tensor) -> bool:
    """Return whether a tensor is on the meta device, or stands for one elsewhere without its numbers: code that looks
    at values, or keeps what it makes for later, must not then."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)
