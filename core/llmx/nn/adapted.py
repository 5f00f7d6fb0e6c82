"""What adapters make of a model: modules that can be switched off for a while, and weights that are packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn


class Adapted(nn.Module):
    """A module that an adapter put around another; with `adapted` False its forward is that of the base alone."""

    adapted: bool = True


def adapted_modules(model: nn.Module) -> list[Adapted]:
    """Return what of `model` can be switched off, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Adapted)]


def count_weights(model: nn.Module) -> int:
    """Return the weights of a model, those that a quantiser packed by the sizes their linear modules state."""
    held = sum(parameter.numel() for parameter in model.parameters())
    # a head that was packed beside the embedding it is tied to has no weights of its own
    tied = getattr(model, "packed_head", None) if getattr(model, "tied_names", ()) else None
    linears = [each for each in model.modules() if hasattr(each, "in_features") and each is not tied]
    packed = [each for each in linears if not {"weight", "base_layer"} & {*each._parameters, *each._modules}]
    return held + sum(cast(int, each.in_features) * cast(int, each.out_features) for each in packed)


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
