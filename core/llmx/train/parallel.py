"""Data parallelism on torch.distributed: the ranks of a `torchrun` read different rows of the same update.

Every rank holds the whole model. Losses, counts and gradients are summed over the ranks before they are used, so
all of them take the same decisions and the same step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from attrs import frozen
from torch import Tensor


@frozen
class World:
    """The ranks of a run; one rank alone needs no process group and waits for nobody."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this rank writes the files and speaks to the user."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_all(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over the ranks, in place, all of them under way at once."""
        if self.size > 1:
            for handle in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                handle.wait()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether a flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag), device=device))) if self.size > 1 else flag

    def from_main(self, value: Any) -> Any:
        """Return what rank 0 gives."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let rank 0 do the work and fill the cache before the others find it done."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


def join_world() -> World:
    """Return the world that `torchrun` started this process in, or a world of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()
    return World(dist.get_rank(), dist.get_world_size())


def leave_world() -> None:
    """Close the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
