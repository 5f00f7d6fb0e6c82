"""From merged tables to a recipe: find the parts they name, structure every value, collect every fault."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

from attrs import fields_dict

from llmx import base as bases
from llmx import pretrained
from llmx.component import NoOptions
from llmx.errors import CheckpointError, PluginError, RecipeError
from llmx.layers import DATA_KEYS, LISTS, MODEL_KEYS, Leaf, Section, Table
from llmx.options import Fault, structure
from llmx.recipe import DEFAULT_DATASET, DEFAULT_NAMES, OWN, Base, Part, Recipe, Source
from llmx.registry import Offer, Registry
from llmx.sections import CORE_SECTIONS, DataOptions, ModelSource, PluginsOptions, SourceOptions

Options = TypeVar("Options")


class Resolver:
    """Turns merged tables into a recipe and collects every fault on the way."""

    def __init__(self, merged: Table, registry: Registry) -> None:
        self.merged = merged
        self.registry = registry
        self.faults: list[str] = []
        self.origins: dict[str, str] = {}
        self.base: Base | None = None

    def recipe(self) -> Recipe:
        known = [*DEFAULT_NAMES, "data", *CORE_SECTIONS, "hooks"]
        for name, value in self.merged.items():
            if name not in known:
                self._unknown_section(name, value, known)
        core: dict[str, Any] = {n: self._options(cls, self._table(n), n) for n, cls in CORE_SECTIONS.items()}
        self._require(core["plugins"])  # first: a part that is not installed has its reason there
        parts: dict[str, Any] = {"model": self._model()}  # first: it may bring the tokenizer and the template
        parts |= {name: self._section(name) for name in DEFAULT_NAMES if name not in parts}
        groups = self._scheduler_groups()
        sources, data = self._data()
        hooks = self._hooks()
        if self.faults:
            raise RecipeError(*self.faults)
        several = {f"{name}s": parts.pop(name) for name in LISTS}
        parts |= {"scheduler_groups": groups}
        parts |= {"base": self.base, "sources": sources, "data": data, "hooks": hooks, "origins": self.origins}
        return Recipe(**parts, **several, **core)

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
        table = Table({k: leaf for k, leaf in self._table(name).items() if name != "scheduler" or k != "groups"})
        if name == "tokenizer" and (table["name"].value == OWN or (self.base and table["name"].origin == "default")):
            return self._own_tokenizer(table)
        if name == "template" and self.base and table["name"].origin == "default":
            values = bases.template_values(self.base.folder)
            table = Table(
                {**table, **{k: Leaf(v, "default") for k, v in values.items() if k == "name" or k not in table}}
            )
        return self._part(name, table, name)

    def _scheduler_groups(self) -> dict[str, Part | None]:
        """Return the schedulers of parameter groups; one that is given no name has that of the section."""
        section = self._table("scheduler")
        found = {}
        for group, table in section.get("groups", Table()).items():
            found[group] = self._part("scheduler", {"name": section["name"], **table}, f"scheduler.groups.{group}")
            self.origins["scheduler.groups"] = next(iter(table.values()), section["name"]).origin
        return found

    def _model(self) -> Part | None:
        """Return the model that is named, or the one of the folder it begins with, which is noted as the base."""
        table = Table(self._table("model"))
        own = {key: table.pop(key) for key in MODEL_KEYS if key in table}
        source = self._options(ModelSource, own, "model")
        if source is None or not source.pretrained:
            return self._part("model", table, "model")
        origin, name = own["pretrained"].origin, table.pop("name")
        self._refuse(table, "model", "the folder's config.json says it: leave it out, or leave model.pretrained out")
        where = f"{origin}: model.pretrained = {source.pretrained!r}"
        try:
            base = bases.find_base(source.pretrained)
            named = None if name.origin == "default" else str(name.value)
            offer = pretrained.model_offer(base.folder, self.registry, named, f"{name.origin}: model.name")
            self._note("model", "name", name)
        except (RecipeError, CheckpointError) as error:
            self.faults.extend(f"{where}: {line}" for line in str(error).splitlines())
            return None
        self.base = base
        return Part(offer.component.name if name.origin == "default" else name.value, offer, NoOptions(), base.folder)

    def _own_tokenizer(self, table: Section) -> Part | None:
        """Return the tokenizer in the folder that the model begins with."""
        self._note("tokenizer", "name", table["name"])
        given = {key: leaf for key, leaf in table.items() if key != "name"}
        self._refuse(given, "tokenizer", "the model's own tokenizer takes no options: name another, or leave it out")
        if self.base is None:
            self.faults.append(f"{table['name'].origin}: tokenizer.name = {OWN!r}: needs model.pretrained")
            return None
        folder = self.base.folder
        offer = self.registry.find("tokenizer", bases.tokenizer_name(folder), f"{folder}: tokenizer")
        return Part(offer.component.name, offer, NoOptions(), folder)

    def _refuse(self, table: Section, path: str, why: str) -> None:
        self.faults.extend(f"{leaf.origin}: {path}.{key}: {why}" for key, leaf in table.items())

    def _data(self) -> tuple[Any, Any]:
        table = dict(self._table("data"))
        own = {key: table.pop(key) for key in DATA_KEYS if key in table}
        data = self._options(DataOptions, own, "data")
        given = table.pop("sources", None)
        if given is None:
            part = self._dataset(table, "data", (*DATA_KEYS, "sources"))
            return (() if part is None else (Source(_label(table, part), 1.0, part),)), data
        if table:
            self.faults.append(f"{given.origin}: data.sources and data.{next(iter(table))} are given: keep one of them")
        return self._sources(given), data

    def _dataset(self, table: dict[str, Leaf], path: str, core: tuple[str, ...]) -> Part | None:
        """Return the dataset of a table; `core` are keys of it that the core takes, and a user may have misspelt."""
        if "name" not in table:
            chosen = self._dataset_name(table.get("path"))
            if chosen is None:
                return None
            table["name"] = Leaf(chosen, "default")
        elif "path" in table and not table["name"].origin.startswith((table["path"].origin, "--data", "data.name")):
            self._check_reader(table["name"], table["path"])
        return self._part("dataset", table, path, ("name", "path", *core))

    def _sources(self, given: Leaf) -> tuple[Source, ...]:
        if not (isinstance(given.value, list) and given.value and all(isinstance(t, Mapping) for t in given.value)):
            self.faults.append(f"{given.origin}: data.sources must be a list of tables: {given.value!r}")
            return ()
        found: list[Source] = []
        for number, values in enumerate(given.value):
            where = f"data.sources[{number}]"
            table = {key: Leaf(value, given.origin) for key, value in values.items()}
            facts = self._options(SourceOptions, {k: table.pop(k) for k in ("label", "weight") if k in table}, where)
            part = self._dataset(table, where, tuple(fields_dict(SourceOptions)))
            if part is not None and facts is not None:
                label = facts.label or _label(table, part)
                taken = {source.label for source in found}
                found.append(Source(label if label not in taken else f"{label}-{number + 1}", facts.weight, part))
        return tuple(found)

    def _readers(self, path: Leaf) -> dict[str, Offer]:
        """Return the datasets that read files with the endings of paths, each by its first path; folders have none."""
        return self._handling(paths_of(path.value))

    def _handling(self, paths: Iterable[str]) -> dict[str, Offer]:
        found: dict[str, Offer] = {}
        for each in paths:
            offers = (self.registry.handling("dataset", suffix) for suffix in endings(each))
            offer = next(filter(None, offers), None)
            if offer is not None and offer not in found.values():
                found[each] = offer
        return found

    def _check_reader(self, name: Leaf, path: Leaf) -> None:
        """Note a fault where a path given later than the dataset's name ends in what another dataset reads."""
        for reader in self._readers(path).values():
            if str(name.value).rpartition(":")[2] != reader.component.name:
                self.faults.append(
                    f"{path.origin}: data.path ends in what {reader.component.name} reads, but data.name = "
                    f"{name.value!r} ({name.origin}): give data.name as well"
                )
                return

    def _dataset_name(self, path: Any) -> str | None:
        if path is None:
            return DEFAULT_DATASET
        readers = self._readers(path) or self._handling(itertools.chain(*map(files_below, paths_of(path.value))))
        if not readers:
            components = [offer.component for offer in self.registry.offers("dataset")]
            known = ", ".join(f"{suffix} ({each.name})" for each in components for suffix in each.handles)
            why = _unread(path.value)
            known = "" if why.startswith("no such file") else f"; set data.name (known endings: {known})"
            self.faults.append(f"{_given(path)}: {why}{known}")
            return None
        if len(readers) > 1:
            which = " and ".join(f"{offer.component.name} ({each})" for each, offer in readers.items())
            self.faults.append(
                f"{_given(path)}: names files for several datasets, {which}: "
                "give each its own table in data.sources, or set data.name to read all alike"
            )
            return None
        (offer,) = readers.values()
        return offer.component.name if offer.plugin.distribution == "llmx" else offer.qualified

    def _part(self, kind: str, table: Section, path: str, core: tuple[str, ...] = ()) -> Part | None:
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
        options = self._options(offer.component.options, given, path, core)
        return None if options is None else Part(name.value, offer, options)

    def _options(self, cls: type[Options], table: Section, path: str, also: tuple[str, ...] = ()) -> Options | None:
        for key, leaf in table.items():
            self._note(path, key, leaf)
        options, faults = structure(cls, {key: leaf.value for key, leaf in table.items()}, path, also)
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
        homes += [f"sampler.{each}" for each in self._sampler_options(name)]
        near = homes or difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        self.faults.append(f"{origin}: {name}: no such section; nearest: {', '.join(near)}")

    def _sampler_options(self, name: str) -> Iterator[str]:
        """Yield the options of samplers that may be meant: called so, or of a sampler that is called so."""
        for offer in self.registry.offers("sampler"):
            for option in fields_dict(offer.component.options):
                if name == option or name.replace("_", "-") == offer.component.name:
                    yield f"{offer.component.name}.{option}"


def _given(path: Leaf) -> str:
    """Return where a path was given, and the path; an override says both itself."""
    said = path.origin.startswith("data.path=")
    return path.origin if said else f"{path.origin}: data.path = {str(path.value)!r}"


def _unread(path: Any) -> str:
    """Return why no dataset is chosen by a path."""
    given = paths_of(path)
    missing = [Path(each).expanduser() for each in given if not re.search(r"[*?\[]|://", each)]
    for path in (each for each in missing if not each.exists() and each.parent.is_dir()):
        near = difflib.get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=1, cutoff=0.8)
        if near:
            return f"no such file or folder; nearest: {path.with_name(near[0])}"
    folders = [each for each in given if Path(each).expanduser().is_dir()]
    if not folders:
        return "no dataset is chosen by this ending"
    if any(any(Path(each).expanduser().iterdir()) for each in folders):
        return "is a folder, and no file in it has an ending that chooses a dataset"
    return "is an empty folder"


def files_below(path: str) -> Iterator[str]:
    """Yield the files of a folder on this machine and of those in it, as datasets read them; a file has none."""
    for folder, inside, names in os.walk(Path(path).expanduser()):
        inside[:] = sorted(each for each in inside if not each.startswith("."))
        yield from (str(PurePath(folder, each)) for each in sorted(names) if not each.startswith("."))


def _label(table: Section, part: Part) -> str:
    """Return what a source is called where the recipe does not say: by its file, else by its dataset."""
    name = stem(table["path"].value) if "path" in table else "*"
    return part.offer.component.name if any(each in name for each in "*?[") else name  # a pattern names no file


def paths_of(path: Any) -> list[str]:
    """Return the paths that are given: several, or one."""
    return [str(each) for each in path] if isinstance(path, list | tuple) and path else [str(path)]


def file_name(path: str) -> str:
    """Return the last part of a path or a URL, without a query."""
    return PurePath(path.partition("?")[0]).name


def endings(path: str) -> list[str]:
    """Return the endings of a path, the longest first: `.jsonl.gz`, `.gz`."""
    suffixes = [suffix.lower() for suffix in PurePath(file_name(path)).suffixes]
    return ["".join(suffixes[at:]) for at in range(len(suffixes))]


def stem(path: Any) -> str:
    """Return what a source is called by its path, or the first of several: the name of the file without endings."""
    return file_name(paths_of(path)[0]).split(".")[0] or "source"
