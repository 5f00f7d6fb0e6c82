"""Discovery over entry points: each plugin is loaded by itself, so that one's fault is never another's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy
from attrs import frozen

from llmx import hookspecs
from llmx.component import KINDS, Component
from llmx.errors import place_of
from llmx.hookcheck import wrong_hooks

GROUP = "llmx"

Status = Literal["ok", "disabled", "broken", "incompatible"]


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
    """One line; empty unless broken or incompatible."""
    traceback: str = ""
    warning: str = ""
    """One line on what is wrong with a plugin that works."""


class OfferError(Exception):
    """A plugin module loaded but breaks the contract of `llmx.hookspecs`."""

    def __init__(self, message: str, function: Callable[..., Any] | None = None) -> None:
        super().__init__(message)
        code = getattr(function, "__code__", None)
        self.place = f"{code.co_filename}:{code.co_firstlineno}" if code else ""


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
    had_torch, began = "torch" in sys.modules, time.perf_counter()
    try:
        module = entry.load()
        stale = incompatible(_distribution(entry), getattr(module, "llmx_api", None))
        if stale:
            return plugin("incompatible", error=stale)
        offers = tuple(offers_of(module))
    except (Exception, SystemExit) as error:  # the one place where a stranger's fault is contained
        stale = incompatible(_distribution(entry), _written_api(entry))
        if stale:  # what a newer API has and this one lacks is no fault of the plugin
            return plugin("incompatible", error=stale, traceback=traceback.format_exc())
        line = f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, OfferError) else str(error)
        return plugin("broken", error=line + _place(entry, error), traceback=traceback.format_exc())
    warning = ""
    if "torch" in sys.modules and not had_torch:
        seconds = time.perf_counter() - began
        warning = (
            f"imports torch when it is listed, which costs every command {seconds:.1f} s: name its code by target="
        )
    return plugin("ok", offers=offers, warning=warning)


def incompatible(distribution: str, written_for: Any) -> str:
    """Return why a plugin written for an API does not work with this one, and what to upgrade; empty if it does.

    Args:
        written_for: the module's `llmx_api`, `"MAJOR.MINOR"`; None says nothing and is taken to work.

    Raises:
        OfferError: it is neither.
    """
    if written_for is None:
        return ""
    found = re.fullmatch(r"(\d+)\.(\d+)", written_for) if isinstance(written_for, str) else None
    if found is None:
        raise OfferError(f'llmx_api must be "MAJOR.MINOR", as in "{hookspecs.API_VERSION}": {written_for!r}')
    wanted = (int(found[1]), int(found[2]))
    major, minor = map(int, hookspecs.API_VERSION.split("."))
    if wanted[0] == major and wanted[1] <= minor:
        return ""
    older = f"pip install -U {distribution if wanted < (major, minor) else 'llmx'}"
    return f"was written for plugin API {written_for}, this llmx has {hookspecs.API_VERSION}: {older}"


def _written_api(entry: importlib.metadata.EntryPoint) -> str | None:
    """Return the `llmx_api` that stands in the source of a module which cannot be imported."""
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return None
        source = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    except (Exception, SystemExit):  # its parent package fails, or it cannot be read: that is told already
        return None
    found = re.search(r"""^llmx_api\s*(?::[^=]*)?=\s*["']([\d.]+)["']""", source, re.MULTILINE)
    return found[1] if found and re.fullmatch(r"\d+\.\d+", found[1]) else None


def _place(entry: importlib.metadata.EntryPoint, error: BaseException) -> str:
    """Return ` (file:line)` of a plugin's own line at fault; nothing where it never came to one."""
    if isinstance(error, OfferError):
        return f" ({error.place})" if error.place else ""
    place = place_of(error)
    return (
        f" ({place})" if entry.module.partition(".")[0] in Path(place.rpartition(":")[0]).with_suffix("").parts else ""
    )


def offers_of(module: ModuleType) -> list[tuple[str, Component]]:
    """Return the (kind, component) pairs a plugin module offers.

    Raises:
        OfferError: a hook is misspelt, unmarked or takes unknown arguments, or offers what is no component or
            one name twice.
    """
    _check_marks(module)
    for line, function in wrong_hooks(module):
        raise OfferError(line, function)
    manager = pluggy.PluginManager("llmx")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        text = " ".join(str(error).split())
        hooks = [value for name, value in vars(module).items() if name.startswith("llmx_") and name in text]
        raise OfferError(text, hooks[0] if hooks else None) from error
    offers: dict[tuple[str, str], Component] = {}
    for kind in KINDS:
        for implementation in getattr(manager.hook, f"llmx_{kind}s").get_hookimpls():
            for component in _call(kind, implementation.function):
                if (kind, component.name) in offers:
                    raise OfferError(f"llmx_{kind}s offers {component.name!r} twice", implementation.function)
                offers[kind, component.name] = component
    return [(kind, component) for (kind, _), component in offers.items()]


def _call(kind: str, hook: Callable[[], Iterable[Component]]) -> list[Component]:
    found = hook()
    if not isinstance(found, Iterable):
        raise OfferError(f"llmx_{kind}s returned {found!r}, which is no list of components", hook)
    components = list(found)
    for component in components:
        if not isinstance(component, Component):
            raise OfferError(f"llmx_{kind}s returned {component!r}, which is no llmx.Component", hook)
    return components


def _check_marks(module: ModuleType) -> None:
    offers = {f"llmx_{kind}s" for kind in KINDS}
    for name, value in vars(module).items():
        if not (inspect.isfunction(value) and value.__module__ == module.__name__ and name.startswith("llmx_")):
            continue
        if not hasattr(value, "llmx_impl"):
            raise OfferError(f"{name} is not marked with @llmx.hookimpl", value)
        if name not in offers and hasattr(hookspecs, name):
            text = f"{name} is announced by a run: it belongs on a callback, not on the plugin module"
            raise OfferError(text, value)
