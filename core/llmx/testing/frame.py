"""The frame of the conformance kit: what a check is, what it is done to, and what came of it."""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs
from attrs import define, field, frozen

from llmx.errors import LlmxError, PluginError, RecipeError, place_of
from llmx.options import structure
from llmx.recipe import Part
from llmx.registry import Offer, Registry
from llmx.testing.samples import sample_path

Status = Literal["passed", "failed", "skipped"]

GivenOptions = Mapping[str, Mapping[str, Any]]
"""Options of components by their names, for the checks."""

NONE_GIVEN: GivenOptions = MappingProxyType({})


class NotApplicable(Exception):  # noqa: N818  # it is no error
    """A check says nothing about this component; the message is the reason."""


@define
class Subject:
    """A component under check.

    Attributes:
        part: the component with its options.
        scratch: an empty folder that the check may write to.
    """

    part: Part
    scratch: Path

    def build(self, *arguments: Any, **named: Any) -> Any:
        """Call the component's target with its options first, as a run does."""
        return self.part.build(*arguments, **named)


@frozen
class Check:
    """One promise of a kind.

    Attributes:
        name: of the function, with dashes: `cached-decoding`.
        promise: what must hold, the first line of the function's docstring.
        function: raises AssertionError with what is wrong, or NotApplicable.
    """

    kind: str
    name: str
    promise: str
    function: Callable[[Subject], None] = field(eq=False)


@frozen
class Result:
    """What came of one check of one component."""

    component: str
    """Kind and qualified name: `optimizer llmx-lion:lion`."""
    check: str
    promise: str
    status: Status
    message: str
    """What is wrong, or why the check says nothing; empty when passed."""
    seconds: float


def suite(kind: str) -> list[Check]:
    """Return the checks of a kind; its module `llmx.testing.<kind>` is imported now."""
    functions: tuple[Callable[[Subject], None], ...] = importlib.import_module(f"llmx.testing.{kind}").CHECKS
    return [Check(kind, f.__name__.replace("_", "-"), (f.__doc__ or "").splitlines()[0], f) for f in functions]


def parts_of(name: str, registry: Registry, options: GivenOptions = NONE_GIVEN) -> list[Part]:
    """Return the components a name stands for: a component, a plugin, a distribution, or `distribution:component`.

    Args:
        options: by component name, for those whose defaults do not suffice.

    Raises:
        RecipeError: nothing is called that, or an option is missing or wrong.
        PluginError: the plugin of that name is broken, disabled or incompatible.
    """
    for plugin in registry.plugins:
        if plugin.status != "ok" and name in (plugin.name, plugin.distribution):
            raise PluginError(f"{plugin.name} of {plugin.distribution}: {plugin.status}: {plugin.error}")
    offers = [
        offer
        for offer in registry.offers()
        if name in (offer.component.name, offer.qualified, offer.plugin.name, offer.plugin.distribution)
    ]
    if not offers:
        raise RecipeError(f"check: {name!r}: no part, plugin or distribution is called that: see `llmx plugins`")
    return [_part(offer, options.get(offer.component.name, {})) for offer in offers]


def _part(offer: Offer, values: Mapping[str, Any]) -> Part:
    """Structure the options of an offer; a `path` that is required and not given is a sample that the kit writes."""
    fields = attrs.fields_dict(offer.component.options)
    if "path" in fields and fields["path"].default is attrs.NOTHING and "path" not in values:
        sample = sample_path(offer.kind, offer.component)
        values = dict(values) if sample is None else {**values, "path": str(sample)}
    structured, faults = structure(offer.component.options, values, f"{offer.kind} {offer.component.name}")
    if faults:
        raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
    return Part(offer.qualified, offer, structured)


def run_checks(part: Part, scratch: Path, only: str | None = None) -> Iterator[Result]:
    """Do the checks of a part's kind, each in a folder of its own under `scratch`.

    Args:
        only: the name of the one check to do; None does all.
    """
    for check in suite(part.kind):
        if only in (None, check.name):
            folder = scratch / check.name
            folder.mkdir(parents=True)
            yield run_check(check, Subject(part, folder))


def run_check(check: Check, subject: Subject) -> Result:
    """Do one check, with every global random generator seeded."""
    began = time.perf_counter()
    status, message = _outcome(check, subject)
    component = f"{check.kind} {subject.part.offer.qualified}"
    return Result(component, check.name, check.promise, status, message, time.perf_counter() - began)


def _outcome(check: Check, subject: Subject) -> tuple[Status, str]:
    import torch

    torch.manual_seed(0)
    random.seed(0)
    try:
        check.function(subject)
    except NotApplicable as reason:
        return "skipped", str(reason)
    except AssertionError as error:
        said = str(error).partition("\nassert ")[0]  # what pytest adds is for the authors of tests
        return "failed", said or place_of(error)
    except LlmxError as error:
        return "failed", str(error)
    except Exception as error:  # a stranger's code: its fault is the finding
        return "failed", f"{type(error).__name__}: {error} ({place_of(error)})"
    return "passed", ""
