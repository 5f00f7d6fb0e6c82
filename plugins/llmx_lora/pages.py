"""Memory of weights that were read once and are not needed soon."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

PAGEOUT = 21
"""MADV_PAGEOUT of Linux 5.4: pages of a mapped file are let go, others may be swapped; none is ever lost."""


def let_go(weight: Tensor) -> None:
    """Advise the kernel to take back the pages of a weight on the CPU; read again, they come back from its file.

    A base that is packed module by module is then never whole in memory. It is advice: elsewhere than on Linux, and
    where the kernel declines, nothing happens.
    """
    if not sys.platform.startswith("linux") or weight.device.type != "cpu":
        return
    first = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages: neighbours keep theirs
    end = (weight.data_ptr() + weight.numel() * weight.element_size()) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), PAGEOUT)
