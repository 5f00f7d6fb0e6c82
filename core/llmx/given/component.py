"""How an object becomes a component that a recipe can name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from llmx.component import Component
from llmx.errors import RecipeError
from llmx.plugins import Plugin

GIVEN = "given"
"""What stands before the name of such a part, where a distribution stands for others."""


@frozen
class GivenOptions:
    object: str = ""
    """The object's class or function, `module:name`. A run that goes on is given one of the same name, so that a loss
    or a model of another kind does not take the place of the first unseen."""


@frozen(kw_only=True)
class GivenComponent(Component):
    """A component whose target is at hand.

    Args:
        value: what the contract of its kind calls, in the place of an imported target.
    """

    value: Any = field(eq=False, repr=False)

    def load(self) -> Any:
        """Return the target."""
        return self.value


class GivenParts:
    """The objects of one program, each with the kind of part that it is."""

    def __init__(self) -> None:
        self._offers: list[tuple[str, Component]] = []

    def add(self, kind: str, thing: object, target: Any) -> dict[str, str]:
        """Offer an object, and return the table that names it in a recipe.

        Args:
            target: what is called as the contract of the kind says.
        """
        module, name = place_in_code(thing)
        bare = re.sub(r"[^a-z0-9._+-]+", "-", name.rpartition(".")[2].lower()).strip("-._") or kind
        taken = {each.name for k, each in self._offers if k == kind}
        bare = next(each for each in (bare, *(f"{bare}-{n}" for n in range(2, len(taken) + 3))) if each not in taken)
        component = GivenComponent(name=bare, target=f"llmx.given:{kind}", options=GivenOptions, value=target)
        self._offers.append((kind, component))
        return {"name": f"{GIVEN}:{bare}", "object": f"{module}:{name}"}

    def plugin(self) -> Plugin:
        """Return the plugin that offers them."""
        return Plugin(
            name=GIVEN, distribution=GIVEN, version="", module="llmx.given", status="ok", offers=tuple(self._offers)
        )


def place_in_code(thing: object) -> tuple[str, str]:
    """Return the module and the name of a function or class, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(getattr(named, "__module__", None) or "builtins"), str(named.__qualname__)


def require_contract(what: str, thing: object, contract: type) -> None:
    """Check that an object has every member of a protocol of `llmx.protocols`.

    Raises:
        RecipeError: it lacks some; the message names each.
    """
    lacking = [name for name in members(contract) if not hasattr(thing, name)]
    if lacking:
        raise RecipeError(
            f"{what}: {type(thing).__name__} lacks {', '.join(lacking)}: see the contract llmx.protocols."
            f"{contract.__name__}"
        )


def members(contract: type) -> Iterable[str]:
    """Return the names of the attributes and methods of a protocol."""
    own = (name for name, value in vars(contract).items() if callable(value))
    public = [name for name in (*inspect.get_annotations(contract), *own) if not name.startswith("_")]
    return [*public, "__iter__"] if "__iter__" in vars(contract) else public
