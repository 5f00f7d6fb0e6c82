"""What `/set` changes: how answers are drawn, and how long they may be."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from llmx import RecipeError, Registry
from llmx.options import structure

FIRST = "json-schema"
"""A sampler that forbids tokens: after one that keeps the likeliest it might leave none."""
NUMBERS = {"max_new_tokens": 1, "seed": 0}
"""Numbers that are no sampler's, with the least that each may be."""


class Settings:
    """The chain of samplers as names and options, and the numbers of a request.

    Args:
        links: the chain of the run.
    """

    def __init__(self, links: Sequence[tuple[str, Mapping[str, Any]]], registry: Registry | None = None) -> None:
        self.links = [(name, dict(options)) for name, options in links]
        self.numbers: dict[str, int] = {}
        self._registry = registry or Registry()

    def __str__(self) -> str:
        chain = [_told(name, options) for name, options in self.links]
        return ", ".join([*chain, *(f"{name}={value}" for name, value in self.numbers.items())])

    def change(self, given: str) -> None:
        """Change one thing: `temperature=0.3`, `top-k=20`, `top-k=off`, `min-p.p=0.1`, `seed=7`, `max_new_tokens=50`.

        Raises:
            RecipeError: there is no such setting or value; nothing is changed.
        """
        name, equals, text = (part.strip() for part in given.partition("="))
        if not (name and equals and text):
            raise RecipeError(f"/set {given}: must be NAME=VALUE, such as temperature=0.3")
        if name in NUMBERS:
            self.numbers[name] = _whole(name, text)
            return
        sampler, _, option = name.partition(".")
        sampler = {each: each for each in self._names()}.get(sampler, sampler.replace("_", "-"))
        if sampler == "temperature" and text in ("0", "0.0"):
            sampler, text = "greedy", "on"
        component = self._component(sampler)
        fields = [each.name for each in component.options.__attrs_attrs__]
        if text == "off":
            self.links = [link for link in self.links if link[0] != sampler]
            return
        values = dict(next((options for known, options in self.links if known == sampler), {}))
        if fields:
            values[option or fields[0]] = _scalar(text)
        _, faults = structure(component.options, values, sampler)
        if faults:
            raise RecipeError(*(f"/set {given}: {fault.message}" for fault in faults))
        self._put(sampler, values)

    def _put(self, sampler: str, values: dict[str, Any]) -> None:
        if sampler == FIRST:
            self.links = [(sampler, values), *(link for link in self.links if link[0] != FIRST)]
            return
        if sampler == "greedy":  # nothing is left to draw for the others
            self.links = [*(link for link in self.links if link[0] == FIRST), (sampler, values)]
            return
        self.links = [link for link in self.links if link[0] != "greedy"]
        if sampler in (name for name, _ in self.links):
            self.links = [(name, values if name == sampler else options) for name, options in self.links]
        else:
            self.links.append((sampler, values))

    def names(self) -> list[str]:
        """Return what can be set."""
        return sorted([*self._names(), *NUMBERS])

    def _names(self) -> list[str]:
        return [offer.component.name for offer in self._registry.offers("sampler")]

    def _component(self, name: str) -> Any:
        if name.rpartition(":")[2] not in self._names():
            near = difflib.get_close_matches(name, self.names(), n=2) or self.names()
            raise RecipeError(f"/set {name}: no such setting; nearest: {', '.join(near)}")
        return self._registry.find("sampler", name, "/set").component


def _told(name: str, options: Mapping[str, Any]) -> str:
    """Return a link as `/set` takes it."""
    if len(options) < 2:
        return "=".join([name, *map(str, options.values())])
    return " ".join(f"{name}.{option}={value}" for option, value in options.items())


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < NUMBERS[name]:
        raise RecipeError(f"/set {name}: must be a whole number from {NUMBERS[name]} on, not {text}")
    return int(text)


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
