"""Discovery over entry points: each plugin is loaded by itself, so that one's fault is never another's."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Literal

import pluggy
from attrs import frozen

from llmx import hookspecs
from llmx.component import KINDS, Component

GROUP = "llmx"

Status = Literal["ok", "disabled", "broken"]


@frozen(kw_only=True)
class Plugin:
    """One entry point of group `llmx` and what came of loading it."""

    name: str
    distribution: str
    version: str
    module: str
    status: Status
    offers: tuple[tuple[str, Component], ...] = ()
    """Pairs of kind and component."""
    error: str = ""
    """One line; empty unless broken."""
    traceback: str = ""


class OfferError(Exception):
    """A plugin module loaded but breaks the contract of `llmx.hookspecs`."""


def discover(disabled: Iterable[str] | None = None) -> list[Plugin]:
    """Load every plugin there is.

    Args:
        disabled: names of entry points or distributions not to load; None reads `LLMX_DISABLE_PLUGINS`, a list
            with commas.
    """
    if disabled is None:
        disabled = os.environ.get("LLMX_DISABLE_PLUGINS", "").split(",")
    off = {name.strip() for name in disabled}
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name))
    return [_load(entry, off) for entry in entries]


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown"


def _load(entry: importlib.metadata.EntryPoint, off: set[str]) -> Plugin:
    def plugin(status: Status, **found: Any) -> Plugin:
        return Plugin(
            name=entry.name,
            distribution=_distribution(entry),
            version=entry.dist.version if entry.dist else "unknown",
            module=entry.value,
            status=status,
            **found,
        )

    if off & {entry.name, _distribution(entry)}:
        return plugin("disabled")
    try:
        return plugin("ok", offers=tuple(offers_of(entry.load())))
    except (Exception, SystemExit) as error:  # the one place where a stranger's fault is contained
        line = f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, OfferError) else str(error)
        return plugin("broken", error=line, traceback=traceback.format_exc())


def offers_of(module: ModuleType) -> list[tuple[str, Component]]:
    """Return the (kind, component) pairs a plugin module offers.

    Raises:
        OfferError: a hook is misspelt, unmarked or takes unknown arguments, or offers what is no component or
            one name twice.
    """
    _check_marks(module)
    manager = pluggy.PluginManager("llmx")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise OfferError(" ".join(str(error).split())) from error
    offers: dict[tuple[str, str], Component] = {}
    for kind in KINDS:
        for implementation in getattr(manager.hook, f"llmx_{kind}s").get_hookimpls():
            for component in _call(kind, implementation.function):
                if (kind, component.name) in offers:
                    raise OfferError(f"llmx_{kind}s offers {component.name!r} twice")
                offers[kind, component.name] = component
    return [(kind, component) for (kind, _), component in offers.items()]


def _call(kind: str, hook: Callable[[], Iterable[Component]]) -> list[Component]:
    components = list(hook())
    for component in components:
        if not isinstance(component, Component):
            raise OfferError(f"llmx_{kind}s returned {component!r}, which is no llmx.Component")
    return components


def _check_marks(module: ModuleType) -> None:
    offers = {f"llmx_{kind}s" for kind in KINDS}
    for name, value in vars(module).items():
        if not (inspect.isfunction(value) and value.__module__ == module.__name__ and name.startswith("llmx_")):
            continue
        if not hasattr(value, "llmx_impl"):
            raise OfferError(f"{name} is not marked with @llmx.hookimpl")
        if name not in offers and hasattr(hookspecs, name):
            raise OfferError(f"{name} is announced by a run: it belongs on a callback, not on the plugin module")
