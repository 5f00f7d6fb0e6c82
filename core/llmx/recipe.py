"""A recipe: everything that decides a run, structured to its types, each value knowing where it came from."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, TypeVar

from attrs import field, fields_dict, frozen

from llmx.catalogue import read_catalogue
from llmx.errors import LlmxError, MissingPackageError, PluginError, RecipeError, place_of
from llmx.layers import DATA_KEYS, LISTS, Layer, Leaf, Section, Table, merge
from llmx.options import Fault, structure, unstructure
from llmx.registry import Offer, Registry
from llmx.sections import (
    CORE_SECTIONS,
    CheckpointOptions,
    DataOptions,
    EvalOptions,
    GenerateOptions,
    PluginsOptions,
    TrainOptions,
)

Options = TypeVar("Options")


@frozen
class Part:
    """One component of a run with its options, as resolved."""

    name: str
    """As the recipe gave it: `muon`, or `acme-optim:muon` where two distributions offer one."""
    offer: Offer
    options: Any

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
            raise PluginError(f"{self.who}: needs the package {error.package!r}: pip install '{wanted}'") from error
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


DEFAULT_NAMES: dict[str, Any] = {
    "model": "tinyllm",
    "tokenizer": "sentencepiece",
    "objective": "causal-lm",
    "optimizer": "adamw",
    "scheduler": "linear",
    "sampler": ["temperature", "top-p"],
    "logger": ["console", "jsonl"],
    "adapter": [],
    "callback": [],
}
DEFAULT_DATASET = "python-docs"


@frozen
class Recipe:
    """A run's parts and numbers. `Recipe.resolve` makes one from layers of files, variables, flags and overrides."""

    model: Part
    tokenizer: Part
    dataset: Part
    objective: Part
    optimizer: Part
    scheduler: Part
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
    origins: Mapping[str, str] = field(eq=False)
    """Where each given value came from, by its path; a value that is not here is a default."""

    @classmethod
    def resolve(cls, layers: list[Layer], registry: Registry | None = None) -> Recipe:
        """Merge layers, later over earlier, find the parts they name and structure every value.

        Raises:
            RecipeError: with one line for every fault there is.
            PluginError: a part that is named belongs to a plugin that is broken or not installed.
        """
        merged = merge([Layer("default", DEFAULT_NAMES), *layers])
        return _Resolver(merged, registry or Registry()).recipe()

    @property
    def parts(self) -> list[tuple[str, Part]]:
        """Every part of the run with the name of its section."""
        single = [
            ("model", self.model),
            ("tokenizer", self.tokenizer),
            ("data", self.dataset),
            ("objective", self.objective),
            ("optimizer", self.optimizer),
            ("scheduler", self.scheduler),
        ]
        several = {
            "adapter": self.adapters,
            "sampler": self.samplers,
            "logger": self.loggers,
            "callback": self.callbacks,
        }
        return single + [(section, part) for section, parts in several.items() for part in parts]

    def to_plain(self) -> dict[str, Any]:
        """Return all values, defaults too, as nested plain values that read back as an equal recipe."""
        plain: dict[str, Any] = {}
        for section, part in self.parts:
            values = {"name": part.name, **unstructure(part.options)}
            if section in LISTS:
                plain.setdefault(section, []).append(values)
            else:
                plain[section] = values
        plain["data"] |= unstructure(self.data)
        for section in CORE_SECTIONS:
            plain[section] = unstructure(getattr(self, section))
        if self.train.epochs is not None:
            del plain["train"]["steps"]  # `merge` takes the one or the other
        for section in LISTS:
            plain.setdefault(section, [])
        return {"hooks": list(self.hooks), **plain}


class _Resolver:
    """Turns merged tables into a recipe and collects every fault on the way."""

    def __init__(self, merged: Table, registry: Registry) -> None:
        self.merged = merged
        self.registry = registry
        self.faults: list[str] = []
        self.origins: dict[str, str] = {}

    def recipe(self) -> Recipe:
        known = [*DEFAULT_NAMES, "data", *CORE_SECTIONS, "hooks"]
        for name, value in self.merged.items():
            if name not in known:
                self._unknown_section(name, value, known)
        core: dict[str, Any] = {n: self._options(cls, self._table(n), n) for n, cls in CORE_SECTIONS.items()}
        self._require(core["plugins"])  # first: a part that is not installed has its reason there
        parts = {name: self._section(name) for name in DEFAULT_NAMES}
        dataset, data = self._data()
        hooks = self._hooks()
        if self.faults:
            raise RecipeError(*self.faults)
        several = {f"{name}s": parts.pop(name) for name in LISTS}
        return Recipe(**parts, **several, **core, dataset=dataset, data=data, hooks=hooks, origins=self.origins)

    def _require(self, plugins: PluginsOptions | None) -> None:
        """Check that what the recipe requires is installed.

        Raises:
            PluginError: with one line for each that is not.
        """
        from packaging.requirements import InvalidRequirement

        from llmx.requirements import unmet

        origin, lines = self.origins.get("plugins.require", "recipe"), []
        for each in plugins.require if plugins else ():
            try:
                lack = unmet(each)
            except InvalidRequirement as error:
                self.faults.append(f"{origin}: plugins.require: {str(error).splitlines()[0]}")
                continue
            if lack:
                lines.append(f"{origin}: plugins.require = {each!r}: {lack}: pip install {shlex.quote(each)}")
        if lines:
            raise PluginError("\n".join(lines))

    def _section(self, name: str) -> Any:
        if name in LISTS:
            return tuple(self._part(name, table, f"{name}.{table['name'].value}") for table in self.merged[name])
        return self._part(name, self._table(name), name)

    def _data(self) -> tuple[Any, Any]:
        table = dict(self._table("data"))
        own = {key: table.pop(key) for key in DATA_KEYS if key in table}
        if "name" not in table:
            chosen = self._dataset_name(table.get("path"))
            if chosen is None:
                return None, None
            table["name"] = Leaf(chosen, "default")
        elif "path" in table and not table["name"].origin.startswith((table["path"].origin, "--data", "data.name")):
            self._check_reader(table["name"], table["path"])
        return self._part("dataset", table, "data"), self._options(DataOptions, own, "data")

    def _reader(self, path: Leaf) -> Offer | None:
        """Return the dataset that reads files with the ending of a path."""
        suffix = PurePath(str(path.value)).suffix.lower()
        return self.registry.handling("dataset", suffix) if suffix else None

    def _check_reader(self, name: Leaf, path: Leaf) -> None:
        """Note a fault where a path given later than the dataset's name ends in what another dataset reads."""
        reader = self._reader(path)
        if reader is not None and str(name.value).rpartition(":")[2] != reader.component.name:
            self.faults.append(
                f"{path.origin}: data.path ends in what {reader.component.name} reads, but data.name = {name.value!r} "
                f"({name.origin}): give data.name as well"
            )

    def _dataset_name(self, path: Any) -> str | None:
        if path is None:
            return DEFAULT_DATASET
        text = str(path.value)
        offer = self._reader(path)
        if offer is None:
            components = [offer.component for offer in self.registry.offers("dataset")]
            readers = ", ".join(f"{suffix} ({each.name})" for each in components for suffix in each.handles)
            self.faults.append(
                f"{path.origin}: data.path = {text!r}: no dataset is chosen by this ending; "
                f"set data.name (known endings: {readers})"
            )
            return None
        return offer.component.name if offer.plugin.distribution == "llmx" else offer.qualified

    def _part(self, kind: str, table: Section, path: str) -> Part | None:
        name = table["name"]
        if not isinstance(name.value, str):
            self.faults.append(f"{name.origin}: {path}.name must be a str: {name.value!r}")
            return None
        # a default is llmx's own part, whatever else is installed; a bare name that a user wrote must be clear
        wanted = f"llmx:{name.value}" if name.origin == "default" and ":" not in name.value else name.value
        try:
            offer = self.registry.find(kind, wanted, f"{name.origin}: {path}.name")
        except RecipeError as error:
            self.faults.extend(error.faults)
            return None
        self._note(path, "name", name)
        given = {key: leaf for key, leaf in table.items() if key != "name"}
        options = self._options(offer.component.options, given, path)
        return None if options is None else Part(name.value, offer, options)

    def _options(self, cls: type[Options], table: Section, path: str) -> Options | None:
        for key, leaf in table.items():
            self._note(path, key, leaf)
        options, faults = structure(cls, {key: leaf.value for key, leaf in table.items()}, path)
        self.faults.extend(self._line(fault) for fault in faults)
        return options  # type: ignore[no-any-return]

    def _note(self, path: str, key: str, leaf: Leaf) -> None:
        if leaf.origin != "default":
            self.origins[f"{path}.{key}"] = leaf.origin

    def _line(self, fault: Fault) -> str:
        origin = self.origins.get(fault.path, "recipe")
        given = f" = {fault.value!r}" if fault.value is not None and "no such" in fault.message else ""
        return f"{origin}: {fault.path}{given}: {fault.message}"

    def _table(self, name: str) -> Table:
        value = self.merged.get(name, Table())
        if isinstance(value, Table):
            return value
        origin = value.origin if isinstance(value, Leaf) else "recipe"
        self.faults.append(f"{origin}: {name} must be a table of options")
        return Table()

    def _hooks(self) -> tuple[str, ...]:
        leaf = self.merged.get("hooks", Leaf([], "default"))
        paths = leaf.value if isinstance(leaf, Leaf) else None
        if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
            return tuple(paths)
        self.faults.append("hooks must be a list of paths to Python files")
        return ()

    def _unknown_section(self, name: str, value: Any, known: list[str]) -> None:
        leaves = value if isinstance(value, list) else [value]
        first = leaves[0] if leaves else None
        while isinstance(first, Table):
            first = next(iter(first.values()), None)
        origin = first.origin if isinstance(first, Leaf) else "recipe"
        homes = [f"{section}.{name}" for section, cls in CORE_SECTIONS.items() if name in fields_dict(cls)]
        near = homes or difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        self.faults.append(f"{origin}: {name}: no such section; nearest: {', '.join(near)}")
