"""A recipe: everything that decides a run, structured to its types, each value knowing where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from llmx.catalogue import read_catalogue
from llmx.errors import LlmxError, MissingPackageError, PluginError, place_of
from llmx.layers import LISTS, Layer, merge
from llmx.options import unstructure
from llmx.registry import Offer, Registry
from llmx.sections import (
    CORE_SECTIONS,
    CheckpointOptions,
    DataOptions,
    EvalOptions,
    GenerateOptions,
    PlanOptions,
    PluginsOptions,
    TrainOptions,
)


@frozen
class Part:
    """One component of a run with its options, as resolved."""

    name: str
    """As the recipe gave it: `muon`, or `acme-optim:muon` where two distributions offer one."""
    offer: Offer
    options: Any
    folder: Path | None = None
    """The model folder that it is read from; None for a part that is built from its options."""

    @property
    def kind(self) -> str:
        return self.offer.kind

    @property
    def who(self) -> str:
        """Kind, name and distribution, for messages."""
        return f"{self.kind} {self.offer.component.name!r} of {self.offer.plugin.distribution}"

    def load(self) -> Any:
        """Import the component's target.

        Raises:
            PluginError: it does not exist, or needs a package that is not installed; the message says what to install.
        """
        try:
            return self.offer.component.load()
        except MissingPackageError as error:
            known = read_catalogue().providing(self.kind, self.offer.component.name)
            wanted = known[0].requires if known else error.package
            text = f"{self.who}: needs the package {error.package!r}: pip install '{wanted}'"
            raise MissingPackageError(text, error.package) from error
        except PluginError as error:
            raise PluginError(f"{self.who}: {error}") from error

    def build(self, *arguments: Any, **named: Any) -> Any:
        """Call the component's target with its options first, as the contract of its kind says.

        Raises:
            PluginError: it failed, or returned nothing; the message names the part and the place.
        """
        return self.call(self.load(), *arguments, **named)

    def call(self, target: Any, *arguments: Any, **named: Any) -> Any:
        """Call a function of the component's target as `build` calls the target itself."""
        return self.blame(target, self.options, *arguments, **named)

    def blame(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a function of the part; a fault in it names the part and the place.

        Raises:
            PluginError: it failed, or returned nothing.
        """
        try:
            built = function(*arguments, **named)
        except LlmxError:
            raise
        except Exception as error:  # a stranger's code: its fault gets the place it came from
            raise PluginError(f"{self.who}: {place_of(error)}: {type(error).__name__}: {error}") from error
        if built is None:
            raise PluginError(
                f"{self.who}: {self.offer.component.target} returned None: see its contract in llmx.hookspecs"
            )
        return built


@frozen
class Source:
    """One corpus of a run.

    Attributes:
        label: what it is called where its figures are told apart from those of others.
        weight: its share of the training rows, relative to those of the other sources.
    """

    label: str
    weight: float
    part: Part


DEFAULT_NAMES: dict[str, Any] = {
    "model": "tinyllm",
    "tokenizer": "sentencepiece",
    "template": "chatml",
    "objective": "causal-lm",
    "optimizer": "adamw",
    "scheduler": "linear",
    "sampler": ["temperature", "top-p"],
    "logger": ["console", "jsonl"],
    "adapter": [],
    "callback": [],
}
DEFAULT_DATASET = "python-docs"
OWN = "pretrained"
"""Name of the tokenizer that is the one in the folder of `model.pretrained`."""


@frozen
class Base:
    """What a run's weights begin with.

    Attributes:
        pretrained: as a recipe names it; a folder by its absolute path, what was fetched with its revision.
        folder: where it lies.
    """

    pretrained: str
    folder: Path


@frozen
class Recipe:
    """A run's parts and numbers. `Recipe.resolve` makes one from layers of files, variables, flags and overrides."""

    model: Part
    base: Base | None
    """The pretrained model that it begins with; None for random weights."""
    tokenizer: Part
    template: Part
    """How chats are written; plain text needs none."""
    sources: tuple[Source, ...]
    objective: Part
    optimizer: Part
    scheduler: Part
    scheduler_groups: Mapping[str, Part]
    """Schedulers of the optimizer's parameter groups that have one of their own, by the groups' names."""
    adapters: tuple[Part, ...]
    samplers: tuple[Part, ...]
    loggers: tuple[Part, ...]
    callbacks: tuple[Part, ...]
    hooks: tuple[str, ...]
    plugins: PluginsOptions
    data: DataOptions
    train: TrainOptions
    eval: EvalOptions
    checkpoint: CheckpointOptions
    generate: GenerateOptions
    plan: PlanOptions
    origins: Mapping[str, str] = field(eq=False)
    """Where each given value came from, by its path; a value that is not here is a default."""

    @classmethod
    def resolve(cls, layers: list[Layer], registry: Registry | None = None) -> Recipe:
        """Merge layers, later over earlier, find the parts they name and structure every value.

        Raises:
            RecipeError: with one line for every fault there is.
            PluginError: a part that is named belongs to a plugin that is broken or not installed.
        """
        from llmx.resolve import Resolver

        merged = merge([Layer("default", DEFAULT_NAMES), *layers])
        return Resolver(merged, registry or Registry()).recipe()

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """Every part of the run with the name of its section."""
        single = [
            ("model", self.model),
            ("tokenizer", self.tokenizer),
            ("template", self.template),
            *(("data", source.part) for source in self.sources),
            ("objective", self.objective),
            ("optimizer", self.optimizer),
            ("scheduler", self.scheduler),
            *((f"scheduler.groups.{group}", part) for group, part in self.scheduler_groups.items()),
        ]
        several = {
            "adapter": self.adapters,
            "sampler": self.samplers,
            "logger": self.loggers,
            "callback": self.callbacks,
        }
        return single + [(section, part) for section, parts in several.items() for part in parts]

    @property
    def corpus(self) -> str:
        """The names of all sources in one word."""
        return "+".join(source.label for source in self.sources)

    def to_plain(self) -> dict[str, Any]:
        """Return all values, defaults too, as nested plain values that read back as an equal recipe."""
        plain: dict[str, Any] = {}
        for section, part in self.parts:
            own = section == "tokenizer" and part.folder is not None
            values = {"name": OWN if own else part.name, **unstructure(part.options)}
            if section in LISTS:
                plain.setdefault(section, []).append(values)
            elif section.startswith("scheduler.groups."):
                plain["scheduler"].setdefault("groups", {})[section.removeprefix("scheduler.groups.")] = values
            else:
                plain[section] = values
        if self.base is not None:
            plain["model"]["pretrained"] = self.base.pretrained
        if len(self.sources) > 1:
            plain["data"] = {"sources": [_plain_source(source) for source in self.sources]}
        plain["data"] |= unstructure(self.data)
        for section in CORE_SECTIONS:
            plain[section] = unstructure(getattr(self, section))
        if self.train.epochs is not None:
            del plain["train"]["steps"]  # `merge` takes the one or the other
        for section in LISTS:
            plain.setdefault(section, [])
        return {"hooks": list(self.hooks), **plain}


def _plain_source(source: Source) -> dict[str, Any]:
    named = {"label": source.label, "weight": source.weight, "name": source.part.name}
    return {**named, **unstructure(source.part.options)}
