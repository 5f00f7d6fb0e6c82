"""The hooks of one run: its loggers, its callbacks and the user's own files."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from llmx import hookspecs
from llmx.errors import LlmxError, PluginError, RecipeError, place_of


class RunHooks:
    """Announces a run's events to the objects that listen; the one registered last hears first."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("llmx")
        self._manager.add_hookspecs(hookspecs)

    def register(self, listener: object, name: str) -> None:
        """Add a listener.

        Raises:
            PluginError: it implements a hook that does not exist, or with arguments that the hook does not have.
        """
        try:
            self._manager.register(listener, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{name}: {' '.join(str(error).split())}") from error

    def announce(self, event: str, **arguments: Any) -> None:
        """Call `event` on every listener.

        Raises:
            LlmxError: a listener failed; the message names the hook, the file and the line.
        """
        try:
            getattr(self._manager.hook, event)(**arguments)
        except LlmxError:
            raise
        except Exception as error:  # a stranger's code: its fault gets the place it came from
            raise LlmxError(f"{event}: {place_of(error)}: {type(error).__name__}: {error}") from error

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

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Give each listener its state; one that was not in the checkpoint begins anew."""
        for name, listener in self._listeners():
            if name in states and hasattr(listener, "load_state_dict"):
                listener.load_state_dict(states[name])

    def _listeners(self) -> list[tuple[str, Any]]:
        return [(name, listener) for name, listener in self._manager.list_name_plugin() if listener is not None]


def load_hooks_file(path: Path) -> ModuleType:
    """Import a user's hooks file.

    Raises:
        RecipeError: it is missing, fails to import, or marks no hook.
    """
    if not path.is_file():
        raise RecipeError(f"hooks: {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"llmx_hooks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"hooks: {path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: say where it failed
        raise RecipeError(f"hooks: {path}: {place_of(error)}: {type(error).__name__}: {error}") from error
    functions = [f for name, f in inspect.getmembers(module, inspect.isfunction) if name.startswith("llmx_")]
    unmarked = [f.__name__ for f in functions if not hasattr(f, "llmx_impl")]
    if unmarked or not functions:
        what = f"{unmarked[0]} is not marked" if unmarked else "no function is marked"
        raise RecipeError(f"hooks: {path}: {what} with @llmx.hookimpl")
    return module
