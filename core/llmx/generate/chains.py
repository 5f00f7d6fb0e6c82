"""Sampler chains by names and options, for requests that bring their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from llmx.errors import RecipeError
from llmx.options import structure
from llmx.protocols import Sampler, Tokenizer
from llmx.recipe import Part
from llmx.registry import Registry

MOST_KEPT = 256

Link: TypeAlias = tuple[str, Mapping[str, Any]]
"""Name and options of a sampler."""


class Chains:
    """Builds chains, from any thread. Equal links are built once, so that equal chains are drawn together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: dict[str, Sampler] = {}
        self._lock = threading.Lock()

    def of(self, links: Sequence[Link]) -> tuple[Sampler, ...]:
        """Return the chain of these links, in order; none gives the model's own probabilities.

        Raises:
            RecipeError: there is no such sampler, or it has no such option or value.
            PluginError: a sampler's package is not installed.
        """
        return tuple(self._link(name, dict(options)) for name, options in links)

    def _link(self, name: str, values: dict[str, Any]) -> Sampler:
        key = json.dumps([name, values], sort_keys=True)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = self._built(name, values)
            with self._lock:
                while len(self._kept) >= MOST_KEPT:
                    self._kept.pop(next(iter(self._kept)))
                found = self._kept.setdefault(key, found)
        return found

    @cached_property
    def _registry(self) -> Registry:
        """Made for the first link: most models are asked with the chain they have."""
        return Registry()

    def _built(self, name: str, values: dict[str, Any]) -> Sampler:
        offer = self._registry.find("sampler", name, "sampler")
        options, faults = structure(offer.component.options, values, offer.component.name)
        if faults:
            raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
        sampler: Sampler = Part(offer.qualified, offer, options).build(self._tokenizer)
        return sampler


def at_temperature(links: Sequence[Link], temperature: float) -> list[Link]:
    """Return links with another temperature; 0 takes the best token of those that the others leave, always.

    Raises:
        RecipeError: it is below 0, or no link has one.
    """
    if not temperature >= 0:
        raise RecipeError(f"temperature = {temperature}: must be 0, for the best token always, or more")
    if temperature == 0:
        return [*(link for link in links if "temperature" not in link[1]), ("llmx:greedy", {})]
    at = next((n for n, (_, options) in enumerate(links) if "temperature" in options), None)
    if at is None:
        raise RecipeError("temperature: the sampler chain has none: name it in sampler=[…]")
    name, options = links[at]
    return [*links[:at], (name, {**options, "temperature": temperature}), *links[at + 1 :]]
