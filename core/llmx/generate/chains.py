"""Sampler chains by names and options, for requests that bring their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmx.errors import RecipeError
from llmx.options import structure
from llmx.protocols import Sampler, Tokenizer
from llmx.recipe import Part
from llmx.registry import Registry

MOST_KEPT = 256

Link = tuple[str, Mapping[str, Any]]
"""Name and options of a sampler."""


class Chains:
    """Builds chains, and gives equal requests one and the same, so that they are drawn together."""

    def __init__(self, registry: Registry, tokenizer: Tokenizer) -> None:
        self._registry, self._tokenizer = registry, tokenizer
        self._kept: dict[str, tuple[Sampler, ...]] = {}

    def of(self, links: Sequence[Link]) -> tuple[Sampler, ...]:
        """Return the chain of these links, in order; none gives the model's own probabilities.

        Raises:
            RecipeError: there is no such sampler, or it has no such option or value.
        """
        key = json.dumps([[name, dict(options)] for name, options in links], sort_keys=True)
        if key not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = tuple(self._link(name, options) for name, options in links)
        return self._kept[key]

    def _link(self, name: str, options: Mapping[str, Any]) -> Sampler:
        offer = self._registry.find("sampler", name, "sampler")
        made, faults = structure(offer.component.options, dict(options), f"sampler.{name}")
        if faults:
            raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
        sampler: Sampler = Part(offer.qualified, offer, made).build(self._tokenizer)
        return sampler
