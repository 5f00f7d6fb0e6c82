"""Modules that add to a frozen base can be switched off for a while: the base is then the model of before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Adapted(nn.Module):
    """A module that an adapter put around another; with `adapted` False its forward is that of the base alone."""

    adapted: bool = True


def adapted_modules(model: nn.Module) -> list[Adapted]:
    """Return what of `model` can be switched off, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Adapted)]


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Run the block with every `Adapted` module of `model` as its base alone, and put each back as it was."""
    modules = adapted_modules(model)
    before = [module.adapted for module in modules]
    try:
        for module in modules:
            module.adapted = False
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.adapted = was
