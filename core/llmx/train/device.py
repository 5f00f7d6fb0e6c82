"""Which device and number type a run uses, and how fast the device can be."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from llmx.errors import RecipeError
from llmx.protocols import Batch
from llmx.sections import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """Return the device `train.device` names.

    Raises:
        RecipeError: there is no such device here.
    """
    if wanted == "auto":
        found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        # each process of a torchrun has its own CUDA device, set when it joined
        return torch.device("cuda", torch.cuda.current_device()) if found.type == "cuda" else found
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without that device
        reason = str(error).splitlines()[0]
        raise RecipeError(f'device = {wanted!r}: not usable here ({reason}); try "auto"') from None
    return device


def choose_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return "fp32", "bf16" or "fp16"; "auto" is bf16 where the device multiplies in it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products are in the type of `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@functools.cache
def peak_flops(precision: str, device: torch.device) -> float:
    """Measure the device's best matrix product, in floating-point operations a second (0.1 to 0.5 s of work)."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.ones(2, size, size, dtype=DTYPES[precision], device=device)
    best = float("inf")
    for _ in range(5):
        _synchronise(device)
        start = time.perf_counter()
        a @ b
        _synchronise(device)
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of handing them back to the kernel: on a CPU, faulting the same pages in
    again at every step costs a fifth of it (tests/benchmarks). Elsewhere than on Linux with glibc, nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
        mallopt(-2, 64 * 2**20)  # M_TOP_PAD: and grows by 64 MiB at a time


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_bytes(device: torch.device) -> int:
    """Return the most memory this run has held: of the accelerator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device, without waiting for the copy."""
    if device.type == "cpu":
        return batch
    return Batch(
        batch.ids_BT.to(device, non_blocking=True),
        batch.labels_BT.to(device, non_blocking=True),
        None if batch.documents_BT is None else batch.documents_BT.to(device, non_blocking=True),
        None if batch.positions_BT is None else batch.positions_BT.to(device, non_blocking=True),
        batch.count,
    )
