"""Where a recipe's values come from: files and what they extend, variables, flags, overrides; merged with origins."""

from __future__ import annotations

import datetime
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.errors import RecipeError

LISTS = ("adapter", "sampler", "logger", "callback")
"""Sections that hold several parts in order, each addressed by its name: `logger.wandb.project`."""

NAMED = ("model", "tokenizer", "template", "data", "objective", "optimizer", "scheduler")
"""Sections that hold one part: `model = "tinyllm"` is short for `model.name = "tinyllm"`."""

DATA_KEYS = ("held_out", "sequence_length", "packing", "loss_on", "loss_turns", "max_samples")
"""Keys of the section `data` that are the core's and not the dataset's (the fields of `llmx.sections.DataOptions`)."""

MODEL_KEYS = ("pretrained",)
"""Keys of the section `model` that are the core's and not the model's (the fields of `llmx.sections.ModelSource`)."""

SCHEDULER_KEYS = ("groups",)
"""Keys of the section `scheduler` that are the core's: schedulers of parameter groups by the groups' names."""

OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[\w:-]+)*=", re.ASCII)
VARIABLE = re.compile(r"LLMX_([A-Z]+)__([A-Z0-9_]+)")
NEAR_VARIABLE = re.compile(
    r"LLMX_(TRAIN|EVAL|CHECKPOINT|GENERATE|DATA|MODEL|TOKENIZER|TEMPLATE|OPTIMIZER|SCHEDULER)_([A-Z0-9_]+)"
)


@frozen
class Leaf:
    """A value and where it was given."""

    value: Any
    origin: str


class Table(dict[str, Any]):
    """A merged table: keys to leaves, tables, or lists of tables."""

    def __or__(self, other: Mapping[str, Any]) -> Table:  # type: ignore[override]
        return Table({**self, **other})


Section = Mapping[str, Leaf]


@frozen
class Layer:
    """Values from one place, nested by section."""

    origin: str
    values: Mapping[str, Any]


def merge(layers: Iterable[Layer]) -> Table:
    """Lay each layer over those before it.

    A layer that names another part for a section drops the options given for the part before; a layer that lists
    parts replaces the list, and a part that stays keeps its options.
    """
    merged = Table()
    for layer in layers:
        for section, value in layer.values.items():
            if section in LISTS:
                merged[section] = _merge_list(merged.get(section), value, layer.origin, section)
            elif section in NAMED:
                values = _table_of(value, layer.origin, section)
                before = merged.get(section, Table())
                if section == "data":
                    before = _other_data(before, values)
                keep = {"data": DATA_KEYS, "model": MODEL_KEYS, "scheduler": SCHEDULER_KEYS}.get(section, ())
                merged[section] = _merge_part(before, values, layer.origin, keep)
                if section == "scheduler" and "groups" in values:
                    merged[section]["groups"] = _merge_groups(before.get("groups"), values["groups"], layer.origin)
            elif isinstance(value, Mapping):
                merged[section] = _merge_table(merged.get(section, Table()), value, layer.origin, section)
            else:
                merged[section] = Leaf(value, layer.origin)
    return merged


def _merge_table(before: Any, values: Mapping[str, Any], origin: str, section: str) -> Table:
    if not isinstance(before, Table):
        raise RecipeError(f"{before.origin}: {section} = {before.value!r}: must be a table of options")
    for one, other in (("steps", "epochs"), ("epochs", "steps")):  # two ways to say how long: the later one counts
        if section == "train" and one in values:
            if other in values:
                raise RecipeError(f"{origin}: train.steps and train.epochs are given: keep one of them")
            before = Table({key: leaf for key, leaf in before.items() if key != other})
    return Table(before | _leaves(values, origin))


def _leaves(values: Mapping[str, Any], origin: str) -> Table:
    return Table({key: Leaf(value, origin) for key, value in values.items()})


def _table_of(value: Any, origin: str, section: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping):
        return value
    raise RecipeError(f"{origin}: {section} must be a name or a table, not {value!r}")


def _other_data(before: Table, values: Mapping[str, Any]) -> Table:
    """Return a data table without what a later layer replaces: one corpus by a list of sources, or the other way."""
    if "sources" in values:
        return Table({key: leaf for key, leaf in before.items() if key in DATA_KEYS})
    if "name" in values or "path" in values:
        return Table({key: leaf for key, leaf in before.items() if key != "sources"})
    return before


def _merge_part(before: Table, values: Mapping[str, Any], origin: str, keep: tuple[str, ...]) -> Table:
    name = before.get("name")
    if "name" in values and name is not None and name.value != values["name"]:
        before = Table({key: leaf for key, leaf in before.items() if key in keep})
    return before | _leaves({key: _laid_over(before.get(key), value) for key, value in values.items()}, origin)


def _laid_over(before: Leaf | Table | None, value: Any) -> Any:
    """Return a value, one that is a table over the table before it: `optimizer.options.momentum=0.9` is one more."""
    if isinstance(before, Leaf) and isinstance(before.value, Mapping) and isinstance(value, Mapping):
        return {**before.value, **value}
    return value


def _merge_groups(before: Table | None, values: Any, origin: str) -> Table:
    """Return the schedulers of parameter groups by the groups' names, each a part as the section itself is."""
    after = Table(before or {})
    if not isinstance(values, Mapping):
        raise RecipeError(f"{origin}: scheduler.groups must be a table: write scheduler.groups.GROUP = NAME")
    for group, value in values.items():
        table = _table_of(value, origin, f"scheduler.groups.{group}")
        after[group] = _merge_part(after.get(group, Table()), table, origin, ())
    return after


def _merge_list(before: list[Table] | None, value: Any, origin: str, section: str) -> list[Table]:
    before = before or []
    if isinstance(value, Mapping):  # {wandb: {project: …}}: options for parts that are listed already, or a new part
        return _merge_named(before, value, origin, section)
    if not isinstance(value, list):
        raise RecipeError(f"{origin}: {section} must be a list of names or tables, not {value!r}")
    after: list[Table] = []
    for each in value:
        table = _table_of(each, origin, section)
        if "name" not in table:
            raise RecipeError(f"{origin}: {section}: every entry needs a name: {dict(table)!r}")
        if any(each["name"].value == table["name"] for each in after):
            raise RecipeError(f"{origin}: {section} = {table['name']!r} is listed twice")
        kept = next((old for old in before if old["name"].value == table["name"]), Table())
        after.append(kept | _leaves(table, origin))
    return after


def _merge_named(before: list[Table], values: Mapping[str, Any], origin: str, section: str) -> list[Table]:
    after = list(before)
    for name, options in values.items():
        if not isinstance(options, Mapping):
            raise RecipeError(f"{origin}: {section}.{name} must be a table: write {section}.NAME.OPTION = …")
        found = [i for i, old in enumerate(after) if old["name"].value == name]
        if not found:
            raise RecipeError(
                f"{origin}: {section}.{name}: not in the list of {section}s; name it there first, "
                f'in a file as [[{section}]] with name = "{name}"'
            )
        after[found[0]] = after[found[0]] | _leaves(options, origin)
    return after


# --- the places -----------------------------------------------------------------------------------------------------


def file_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a TOML, YAML or JSON recipe and what it `extends` (paths are relative to the file), base first.

    Raises:
        RecipeError: a file is missing, does not parse, or extends itself.
    """
    resolved = path.resolve()
    if resolved in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in (*seen, resolved))}")
    values = dict(_read(path))
    bases = values.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(f"{path}: extends must be a path or a list of paths: {bases!r}")
    layers = [layer for base in bases for layer in file_layers(path.parent / base, (*seen, resolved))]
    hooks = values.get("hooks")
    if isinstance(hooks, list):  # they stand beside the recipe, wherever it is run from
        values["hooks"] = [str(resolved.parent / each) if isinstance(each, str) else each for each in hooks]
    return [*layers, Layer(str(path), values)]


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() in (".txt", ".md", ".jsonl", ".parquet", ".csv"):
        raise RecipeError(f"{path}: is no recipe: to train on it, write data.path={path}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        values = _parse(path, text)
    except ValueError as error:  # tomllib's and json's errors, and ruamel's through _parse
        reason = " ".join(str(error).split())
        twice = re.search(rf"\('({'|'.join(LISTS)})', '([\w-]+)'\) twice", reason)  # a list and a table of one name
        hint = f': write [[{twice[1]}]] with name = "{twice[2]}" and its options instead of the list' if twice else ""
        raise RecipeError(f"{path}: does not parse: {reason}{hint}") from None
    if isinstance(values, list):
        raise RecipeError(f"{path}: is no recipe, but a list: to train on it, write data.path={path}")
    if not isinstance(values, Mapping):
        raise RecipeError(f"{path}: must hold a table of sections, not {type(values).__name__}")
    return values


def _parse(path: Path, text: str) -> Any:
    if path.suffix in (".yaml", ".yml"):
        return _parse_yaml(path, text)
    if path.suffix == ".json":
        import json

        return json.loads(text)
    return tomllib.loads(text)


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError:
        raise RecipeError(f"{path}: YAML recipes need an extra: pip install 'llmx[yaml]'") from None
    try:
        return YAML(typ="safe", pure=True).load(text) or {}
    except YAMLError as error:
        raise ValueError(str(error)) from error


def environment_layer(environ: Mapping[str, str] = os.environ) -> Layer:
    """Return the values of variables such as `LLMX_TRAIN__STEPS=10` (`LLMX_<SECTION>__<OPTION>`)."""
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        match = VARIABLE.fullmatch(variable)
        if match:
            section, option = (group.lower() for group in match.groups())
            values.setdefault(section, {})[option] = scalar(text)
        elif near := NEAR_VARIABLE.fullmatch(variable):
            raise RecipeError(f"environment: {variable}: write LLMX_{near[1]}__{near[2]}, with two underscores")
    return Layer("environment", values)


def is_override(argument: str) -> bool:
    """Return whether a bare argument is `key=value` and no path."""
    return OVERRIDE.match(argument) is not None


def override_layers(arguments: Iterable[str]) -> list[Layer]:
    """Read `section.option=value` arguments, each a layer of its own. A value is read as TOML, or else as a string."""
    layers = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        path = key.split(".")
        value: Any = scalar(text)
        if len(path) == 1 and path[0] in LISTS and isinstance(value, str):
            value = [each for each in value.split(",") if each]
        for part in reversed(path):
            value = {part: value}
        layers.append(Layer(argument, value))
    return layers


def scalar(text: str) -> Any:
    """Return the TOML value that a text is, or the text itself; a date is one too, for no option holds another."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return text if isinstance(value, datetime.date | datetime.time) else value
