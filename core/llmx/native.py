"""What libraries under torch read from the environment, once: how its threads wait, and what they keep."""

from __future__ import annotations

import os

SPINS = "1000"
"""Looks of a waiting thread until it sleeps, about 50 us. With libgomp's own 300,000 a run of a small model took twice
as long beside one other busy program, and 10 times beside another run; alone it is as fast with either."""

PRIMITIVES = "32"
"""Kernels that oneDNN keeps, of its own 1024: a step needs about 20 (with 16 it is a seventh slower), and those of
batches of another size are seldom asked for again. Chats, whose batches are all of other sizes, took 2 GB for them."""


def settle() -> None:
    """Set what the user left unset; before torch is loaded for the first, before it computes for the second."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)
