"""A `Component` is what a plugin offers: a name, its options and where its code is, nothing built yet."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable
from typing import Any

import attrs
from attrs import field, frozen

from llmx.errors import MissingPackageError, PluginError

KINDS = (
    "model",
    "tokenizer",
    "template",
    "dataset",
    "objective",
    "optimizer",
    "scheduler",
    "adapter",
    "sampler",
    "logger",
    "callback",
)
"""Every kind of part; the hook that offers it is `llmx_<kind>s`."""

NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@frozen
class NoOptions:
    """For a component that takes no options."""


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[Any, attrs.Attribute[str], str], None]:
    def check(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
        if not (isinstance(value, str) and pattern.fullmatch(value)):
            raise ValueError(f"{attribute.name!r} must be {wanted}: {value!r}")

    return check


def _attrs_class(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise ValueError(f"{attribute.name!r} must be an attrs class: {value!r}")


@frozen(kw_only=True)
class Component:
    """One part a recipe can name.

    Args:
        name: lower-case words, digits, `.`, `_`, `+`, `-`; unique within its kind and distribution.
        target: `"package.module:attribute"`, imported when a run needs it. What it is called with is the
            contract of its kind, in `llmx.hookspecs`.
        options: an attrs class whose fields are the options of the component.
        summary: one line for `llmx plugins`.
        handles: what makes this component the answer where no name was given: file suffixes (`".jsonl"`) for a
            dataset, values of `model_type` in a Hugging Face config (`"llama"`) for a model.

    Raises:
        ValueError: a field has not the form above.
    """

    name: str = field(validator=_matching(NAME, "a lower-case name"))
    target: str = field(validator=_matching(TARGET, '"package.module:attribute"'))
    options: type[Any] = field(default=NoOptions, validator=_attrs_class)
    summary: str = ""
    handles: tuple[str, ...] = field(default=(), converter=tuple)

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            PluginError: the module or the attribute does not exist, or fails to import.
            MissingPackageError: it imports a package that is not installed.
        """
        module_name, _, attribute = self.target.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name + ".").startswith(error.name + "."):
                raise PluginError(f"target {self.target!r}: no module {error.name!r}") from error
            text = f"target {self.target!r}: needs the package {error.name!r}: pip install {error.name}"
            raise MissingPackageError(text, str(error.name)) from error
        except Exception as error:  # a stranger's module
            text = f"target {self.target!r} failed to import: {type(error).__name__}: {error}"
            raise PluginError(f"{text}\n{traceback.format_exc()}") from error
        for part in attribute.split("."):
            try:
                found = getattr(found, part)
            except AttributeError as error:
                raise PluginError(f"target {self.target!r}: {module_name} has no {part!r}") from error
        return found
