"""Sampler chains that requests bring, built once for all that are equal."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmx import RecipeError, Registry
from llmx.options import structure
from llmx_serve.sampling import Link

if TYPE_CHECKING:
    from llmx.protocols import Sampler, Tokenizer

MOST_KEPT = 128


class Chains:
    """Gives equal requests one and the same chain, so that an engine draws them together.

    Args:
        run: the run's own chain.
    """

    def __init__(self, registry: Registry, tokenizer: Tokenizer, run: Sequence[Sampler]) -> None:
        self._registry, self._tokenizer, self._run = registry, tokenizer, run
        self._kept: dict[str, Sequence[Sampler]] = {}
        self._lock = threading.Lock()

    def of(self, links: Sequence[Link], law: Sequence[Link] | None) -> Sequence[Sampler]:
        """Return the chain of `links` and then `law`, or the run's own where that is None.

        Raises:
            RecipeError: a sampler refuses its options.
            PluginError: a sampler's package is not installed.
        """
        if not links and law is None:
            return self._run
        key = json.dumps([links, law], sort_keys=True)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = tuple(map(self._link, links)) + (tuple(self._run) if law is None else tuple(map(self._link, law)))
            with self._lock:
                while len(self._kept) >= MOST_KEPT:
                    self._kept.pop(next(iter(self._kept)))
                found = self._kept.setdefault(key, found)
        return found

    def _link(self, link: Link) -> Sampler:
        name, values = link
        offer = self._registry.find("sampler", name, "sampler")
        options, faults = structure(offer.component.options, values, name)
        if faults:
            raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
        sampler: Sampler = offer.component.load()(options, self._tokenizer)
        return sampler
