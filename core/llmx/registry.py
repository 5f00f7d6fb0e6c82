"""From (kind, name) to a component."""

from __future__ import annotations

import difflib
import fnmatch
from collections import defaultdict
from collections.abc import Iterable

from attrs import frozen

from llmx.catalogue import read_catalogue
from llmx.component import KINDS, Component
from llmx.errors import LlmxError, PluginError, RecipeError
from llmx.given.component import GIVEN
from llmx.plugins import Plugin, discover


@frozen
class Offer:
    """A component and the plugin it comes from."""

    kind: str
    component: Component
    plugin: Plugin

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous between distributions."""
        return f"{self.plugin.distribution}:{self.component.name}"


class Registry:
    """All components that the installed plugins offer.

    Args:
        plugins: what `llmx.plugins.discover` found; None discovers.
    """

    def __init__(self, plugins: Iterable[Plugin] | None = None) -> None:
        self.plugins = list(discover() if plugins is None else plugins)
        self._offers: dict[tuple[str, str], list[Offer]] = defaultdict(list)
        for plugin in self.plugins:
            for kind, component in plugin.offers:
                self._offers[kind, component.name].append(Offer(kind, component, plugin))

    @property
    def broken(self) -> list[Plugin]:
        """Those that did not load, whether by a fault or because they were written for another plugin API."""
        return [plugin for plugin in self.plugins if plugin.status in ("broken", "incompatible")]

    def offers(self, kind: str | None = None) -> list[Offer]:
        """Return all offers, or those of one kind, sorted by kind and name."""
        found = [offer for offers in self._offers.values() for offer in offers if kind in (None, offer.kind)]
        return sorted(found, key=lambda offer: (KINDS.index(offer.kind), offer.component.name, offer.qualified))

    def find(self, kind: str, name: str, where: str = "") -> Offer:
        """Return the one offer called `name`, or `distribution:name`.

        Args:
            where: put before the message: `recipe.toml: optimizer.name`.

        Raises:
            RecipeError: there is none, or more than one.
            PluginError: a plugin that would offer it is broken, disabled or not installed.
        """
        distribution, _, bare = name.rpartition(":")
        given = f"{where or kind} = {name!r}"
        offers = self._offers.get((kind, bare), [])
        found = [offer for offer in offers if distribution in ("", offer.plugin.distribution)]
        if len(found) == 1:
            return found[0]
        if len({offer.plugin.distribution for offer in found}) == 1:
            plugins = " and ".join(offer.plugin.name for offer in found)
            raise PluginError(
                f"{given}: {found[0].plugin.distribution} offers {bare!r} twice, in its plugins {plugins}"
            )
        if found:
            owners = " and by ".join(sorted({offer.plugin.distribution for offer in found}))
            choices = " or ".join(sorted({f'"{offer.qualified}"' for offer in found}))
            raise RecipeError(f"{given}: {kind} {bare!r} is offered by {owners}: write {choices}")
        raise self._unknown(kind, bare, distribution, given)

    def handling(self, kind: str, what: str) -> Offer | None:
        """Return the offer whose component `handles` the suffix or type `what`; None if there is none.

        One that handles "*" is asked where no other does.

        Raises:
            RecipeError: more than one distribution offers to.
        """
        offers = self.offers(kind)
        found = [o for o in offers if any(h != "*" and fnmatch.fnmatch(what, h) for h in o.component.handles)]
        found = found or [o for o in offers if "*" in o.component.handles]
        if len(found) > 1:
            names = " and ".join(offer.qualified for offer in found)
            raise RecipeError(f"{what!r} is read by {names}: name the {kind} in the recipe")
        return found[0] if found else None

    def _unknown(self, kind: str, name: str, distribution: str, given: str) -> LlmxError:
        if distribution == GIVEN:
            return PluginError(f"{given}: was an object of a Python program: go on there, with llmx.Trainer and it")
        catalogue = read_catalogue()
        known = catalogue.providing(kind, name)
        listed = {(entry.distribution, entry.name) for entry in known}
        for plugin in self.plugins:
            named = plugin.distribution == distribution or (plugin.distribution, plugin.name) in listed
            if plugin.status == "ok" or not (named or name in (plugin.name, *plugin.distribution.split("-"))):
                continue
            if plugin.status == "disabled":
                return PluginError(f"{given}: plugin {plugin.name!r} of {plugin.distribution} is disabled: "
                                   "take it out of LLMX_DISABLE_PLUGINS")  # fmt: skip
            who = f"{given}: plugin {plugin.name!r} of {plugin.distribution} {plugin.version}"
            if plugin.status == "incompatible":
                return PluginError(f"{who} {plugin.error}")
            return PluginError(f"{who} failed to load: {plugin.error}\n{plugin.traceback}")
        for entry in known:
            return PluginError(f"{given}: {kind} {name!r} is not installed: llmx plugins install {entry.name}")
        names = {offer.component.name for offer in self.offers(kind)}
        others = [other for other in KINDS if (other, name) in self._offers]
        near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5) or sorted(names)
        hint = f"{name!r} is a {others[0]}; {kind}s: " if others else "nearest: "
        text = f"{given}: no such {kind}; {hint}{', '.join(near)}. `llmx plugins` lists them."
        if self.broken:  # it may be one of theirs
            names_of_broken = ", ".join(f"{plugin.name} of {plugin.distribution}" for plugin in self.broken)
            return PluginError("\n".join([f"{text} (Did not load: {names_of_broken})", *catalogue.faults]))
        return RecipeError(text, *catalogue.faults)
