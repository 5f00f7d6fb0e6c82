"""The hooks of one run: its loggers, its callbacks and the user's own files."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from llmx import hookspecs
from llmx.component import KINDS
from llmx.errors import LlmxError, PluginError, RecipeError, place_of
from llmx.hookcheck import place, wrong_hooks


class RunHooks:
    """Announces a run's events to the objects that listen; the one registered last hears first."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("llmx")
        self._manager.add_hookspecs(hookspecs)

    def register(self, listener: object, name: str) -> None:
        """Add a listener.

        Raises:
            PluginError: it implements a hook that does not exist, or with arguments that the hook does not have.
            RecipeError: a listener of that name is there.
        """
        for line, function in wrong_hooks(listener):
            raise PluginError(f"{name}: {place(function)}: {line}")
        if self._manager.has_plugin(name):
            raise RecipeError(f"{name}: is given twice")
        try:
            self._manager.register(listener, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{name}: {' '.join(str(error).split())}") from error

    def announce(self, event: str, *, leave_out: Sequence[str] = (), **arguments: Any) -> None:
        """Call `event` on every listener but those named.

        Raises:
            LlmxError: a listener failed; the message names the hook, the file and the line.
        """
        try:
            left_out = [self._manager.get_plugin(name) for name in leave_out]
            self._manager.subset_hook_caller(event, left_out)(**arguments)
        except LlmxError:
            raise
        except Exception as error:  # a stranger's code: its fault gets the place it came from
            raise LlmxError(f"{event}: {place_of(error)}: {type(error).__name__}: {error}") from error

    def ask(self, event: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Call `event` on every listener, and return what it is called and what it gives for each that gives something.

        Raises:
            LlmxError: a listener failed; the message names the hook, the file and the line.
        """
        given = []
        for heard in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            try:
                answer = heard.function(*(arguments[name] for name in heard.argnames))
            except LlmxError:
                raise
            except Exception as error:  # a stranger's code: its fault gets the place it came from
                raise LlmxError(f"{event}: {place_of(error)}: {type(error).__name__}: {error}") from error
            if answer is not None:
                given.append((heard.plugin_name, answer))
        return given

    def announce_to_each(self, event: str, **arguments: Any) -> list[str]:
        """Call `event` on every listener, also after one has failed; return what failed and where."""
        faults = []
        for heard in reversed(getattr(self._manager.hook, event).get_hookimpls()):
            try:
                heard.function(*(arguments[name] for name in heard.argnames))
            except Exception as error:  # a stranger's code: the others are still to hear
                faults.append(f"{event}: {place_of(error)}: {type(error).__name__}: {error}")
        return faults

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every listener that has one, by its name."""
        return {name: listener.state_dict() for name, listener in self._listeners() if hasattr(listener, "state_dict")}

    def load_state_dict(self, states: Mapping[str, Any]) -> list[str]:
        """Give each listener its state; return the names of those that have none in `states` and stay as they are."""
        strangers = []
        for name, listener in self._listeners():
            if name in states and hasattr(listener, "load_state_dict"):
                listener.load_state_dict(states[name])
            elif hasattr(listener, "load_state_dict"):
                strangers.append(name)
        return strangers

    def modules(self) -> dict[str, ModuleType]:
        """Return the hooks files that listen, by their names."""
        return {name: listener for name, listener in self._listeners() if isinstance(listener, ModuleType)}

    def _listeners(self) -> list[tuple[str, Any]]:
        return [(name, listener) for name, listener in self._manager.list_name_plugin() if listener is not None]


def load_hooks_file(path: Path) -> ModuleType:
    """Import a user's hooks file.

    Raises:
        RecipeError: it is missing, fails to import, or marks no hook.
    """
    if not path.is_file():
        raise RecipeError(f"hooks: {path}: no such file")
    name = f"llmx_hooks_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"hooks: {path}: is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: say where it failed
        raise RecipeError(f"hooks: {path}: {place_of(error)}: {type(error).__name__}: {error}") from error
    functions = [f for name, f in inspect.getmembers(module, inspect.isfunction) if name.startswith("llmx_")]
    for line, function in wrong_hooks(module):
        raise RecipeError(f"hooks: {place(function)}: {line}")
    offers = [f.__name__ for f in functions if f.__name__ in {f"llmx_{kind}s" for kind in KINDS}]
    if offers:
        raise RecipeError(f"hooks: {path}: {offers[0]} offers parts: it belongs in a plugin (llmx plugins new)")
    unmarked = [f.__name__ for f in functions if not hasattr(f, "llmx_impl")]
    if unmarked or not functions:
        what = f"{unmarked[0]} is not marked" if unmarked else "no function is marked"
        raise RecipeError(f"hooks: {path}: {what} with @llmx.hookimpl")
    return module
