"""The frame of the conformance kit: what a check is, what it is done to, and what came of it."""

from __future__ import annotations

import difflib
import importlib
import random
import time
import typing
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
"""Options of components by their names, or by kind and name (`model.qwen3`), for the checks."""

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


def require_assertions() -> None:
    """Refuse an interpreter that leaves assertions out: every check would pass, whatever the part does.

    Raises:
        LlmxError: it does.
    """
    if not __debug__:
        raise LlmxError(
            "check: every check is an assertion, and python -O (PYTHONOPTIMIZE) leaves those out: do without"
        )


def suite(kind: str) -> list[Check]:
    """Return the checks of a kind; its module `llmx.testing.<kind>` is imported now.

    Raises:
        LlmxError: this interpreter leaves assertions out.
    """
    require_assertions()
    functions: tuple[Callable[[Subject], None], ...] = importlib.import_module(f"llmx.testing.{kind}").CHECKS
    return [Check(kind, f.__name__.replace("_", "-"), (f.__doc__ or "").splitlines()[0], f) for f in functions]


def parts_of(name: str, registry: Registry, options: GivenOptions = NONE_GIVEN) -> list[Part]:
    """Return the components a name stands for: a component, a plugin, a distribution, or `distribution:component`.

    Args:
        options: by component name or by kind and name, for those whose defaults do not suffice; where `name` stands for
            components of one name alone, by `name` as well. A name that parts of several kinds have gives an option to
            those that take it.

    Raises:
        RecipeError: nothing is called that, or an option is missing, wrong, or of no component that is checked.
        PluginError: the plugin of that name, or one of the distribution of that name, is broken, disabled or
            incompatible.
    """
    offers = [
        offer
        for offer in registry.offers()
        if name in (offer.component.name, offer.qualified, offer.plugin.name, offer.plugin.distribution)
    ]
    for plugin in registry.plugins:
        # a distribution stands for all of its plugins; the name of a plugin may be that of a healthy one elsewhere
        meant = name == plugin.distribution or (name == plugin.name and not offers)
        if plugin.status != "ok" and meant:
            raise PluginError(f"{plugin.name} of {plugin.distribution}: {plugin.status}: {plugin.error}")
    if not offers:
        raise RecipeError(f"check: {name!r}: no part, plugin or distribution is called that: see `llmx plugins`")
    given = _by_component(name, offers, options)
    return [_part(offer, given.get((offer.kind, offer.component.name), {})) for offer in offers]


def _by_component(name: str, offers: list[Offer], options: GivenOptions) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the options by kind and name of the components that are checked.

    Raises:
        RecipeError: some are for none of them.
    """
    checked = sorted({offer.component.name for offer in offers})
    alone = {name, name.rpartition(":")[2]} if len(checked) == 1 else set()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    faults = []
    for key, values in options.items():
        meant = [o for o in offers if key in (o.component.name, f"{o.kind}.{o.component.name}") or key in alone]
        for option, value in values.items() if meant else ():
            takers = [offer for offer in meant if option in attrs.fields_dict(offer.component.options)]
            for offer in takers or meant:  # an option that none takes is refused by each
                found.setdefault((offer.kind, offer.component.name), {})[option] = value
        if meant:
            continue
        near = difflib.get_close_matches(key, checked, n=3, cutoff=0.5) or checked
        what = ", ".join(f"{key}.{option}" for option in values) or key
        faults.append(f"check: {what}: {key!r} is no part that is checked; nearest: {', '.join(near)}")
    if faults:
        raise RecipeError(*faults)
    return found


def _part(offer: Offer, values: Mapping[str, Any]) -> Part:
    """Structure the options of an offer.

    A `path` that is required and not given is a sample that the kit writes; the `mode` of a logger that may be
    "offline" is that where none is given, since a check must put no runs into an account.
    """
    attrs.resolve_types(offer.component.options)
    fields = attrs.fields_dict(offer.component.options)
    if offer.kind == "logger" and "mode" in fields and "offline" in _choices(fields["mode"].type):
        values = {"mode": "offline", **values}
    if "path" in fields and fields["path"].default is attrs.NOTHING and "path" not in values:
        sample = sample_path(offer.kind, offer.component)
        values = dict(values) if sample is None else {**values, "path": str(sample)}
    structured, faults = structure(offer.component.options, values, f"{offer.kind} {offer.component.name}")
    if faults:
        raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
    return Part(offer.qualified, offer, structured)


def _choices(wanted: Any) -> set[Any]:
    """Return the values that a type names: of `Literal["a", "b"] | None`, a and b."""
    args = typing.get_args(wanted)
    if typing.get_origin(wanted) is Literal:
        return set(args)
    return {choice for each in args for choice in _choices(each)}


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
