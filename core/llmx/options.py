"""Options: attrs classes that are structured strictly, described from their own source, and report every fault."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import frozen

UNITS = ("steps", "tokens", "bytes", "rows", "epochs")
"""Endings of a field name that state its unit; `_s` is seconds, others are given as `metadata={"unit": ...}`."""

TABLES = (dict, Mapping)
"""Annotations of a table."""


@frozen
class Fault:
    """One thing wrong with a value: the path to it, what was given, and what is wanted."""

    path: str
    message: str
    value: Any = None


@frozen
class OptionDoc:
    """One option as `llmx describe` shows it."""

    name: str
    type: str
    default: str
    unit: str
    meaning: str


def structure(cls: type, values: Mapping[str, Any], path: str, also: Sequence[str] = ()) -> tuple[Any, list[Fault]]:
    """Make `cls` from plain values: types first, then ranges.

    Args:
        cls: an attrs class.
        values: what a recipe gave, by field name.
        path: put before the names in faults: `optimizer`.
        also: keys of the same table that belong to others; a misspelt one may be meant.

    Returns:
        The instance, or None where there are faults, and every fault.
    """
    attrs.resolve_types(cls)
    fields = {each.name: each for each in attrs.fields(cls)}
    known = [*dict.fromkeys((*fields, *also))]
    faults = [Fault(f"{path}.{name}", unknown_key(name, known), values[name]) for name in values if name not in fields]
    typed: dict[str, Any] = {}
    for name, each in fields.items():
        if name in values:
            try:
                typed[name] = structure_value(values[name], each.type)
            except TypeError as error:
                faults.append(Fault(f"{path}.{name}", str(error), values[name]))
        elif each.default is attrs.NOTHING:
            faults.append(Fault(f"{path}.{name}", f"is required ({type_name(each.type)})"))
    for name, value in typed.items():
        validator = fields[name].validator
        if validator is not None:
            try:
                validator(None, fields[name], value)
            except AttributeError:  # it compares with other fields: the constructor runs it again with them
                continue
            except (TypeError, ValueError) as error:
                faults.append(Fault(f"{path}.{name}", str(error.args[0] if error.args else error), values[name]))
    if faults:
        return None, faults
    try:
        return cls(**typed), []
    except (TypeError, ValueError) as error:  # a rule between fields, in __attrs_post_init__
        return None, [Fault(path, str(error))]


def unknown_key(name: str, known: Sequence[str]) -> str:
    """Return what to say of a key that does not exist."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    return f"no such option; nearest: {', '.join(near)}" if near else "no such option; there are none"


def structure_value(value: Any, wanted: Any) -> Any:
    """Structure one value to its annotation without converting between kinds: `"1"` is no int, `1` is a float.

    Raises:
        TypeError: it is of another type; the message says which is wanted.
    """
    import cattrs

    try:
        return _converter().structure(value, wanted)
    except (cattrs.errors.CattrsError, cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        hint = f'; write ["{value}"]' if isinstance(value, str) and type_name(wanted) == "list of str" else ""
        raise TypeError(f"must be {type_name(wanted)}, not {value!r} ({plain_type(value)}){hint}") from error


@functools.cache
def _converter() -> Any:
    import cattrs
    from cattrs.strategies import configure_union_passthrough

    converter = cattrs.Converter(forbid_extra_keys=True)
    for primitive in (bool, int, str):
        converter.register_structure_hook(primitive, _exactly)
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(_is_sequence, _sequence)
    converter.register_structure_hook_func(_is_table, _table)
    configure_union_passthrough(str | bool | int | float | None, converter, accept_ints_as_floats=True)
    return converter


def _is_sequence(wanted: Any) -> bool:
    return typing.get_origin(wanted) in (list, tuple)


def _exactly(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:  # bool is an int to isinstance
        raise TypeError(value)
    return value


def _float(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def _path(value: Any, _: type) -> Path:
    if not isinstance(value, str | Path):
        raise TypeError(value)
    return Path(value)


def _sequence(value: Any, wanted: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(value)
    kinds = typing.get_args(wanted)
    if typing.get_origin(wanted) is list or kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise TypeError(value)
    return typing.get_origin(wanted)(map(structure_value, value, kinds))


def _is_table(wanted: Any) -> bool:
    return wanted in TABLES or typing.get_origin(wanted) in TABLES


def _table(value: Any, wanted: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(value)
    key, kind = typing.get_args(wanted) or (Any, Any)
    return {structure_value(name, key): structure_value(each, kind) for name, each in value.items()}


def unstructure(instance: Any) -> dict[str, Any]:
    """Return the fields of an options instance as plain TOML values, without those that are None."""
    plain = attrs.asdict(instance, value_serializer=lambda _, __, v: str(v) if isinstance(v, Path) else v)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items() if v is not None}


# --- words for people -----------------------------------------------------------------------------------------------


def type_name(wanted: Any) -> str:
    """Return a type as a user reads it: `int or "auto"`, `list of str`."""
    if isinstance(wanted, str):
        return wanted
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return " or ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(each) for each in args if each is not type(None))
    if origin in (list, tuple):
        count = "" if origin is list or args[1:] == (...,) else f"{len(args)} "
        return f"list of {count}{type_name(args[0])}"
    if origin in TABLES or wanted in TABLES:
        return "table" if args[1:] in ((), (Any,)) else f"table of {type_name(args[1])}"
    return {Path: "path"}.get(wanted, getattr(wanted, "__name__", str(wanted)))


def plain_type(value: Any) -> str:
    """Return what a TOML reader would call the type of `value`."""
    names = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "table"}
    return names.get(type(value), type(value).__name__)


def describe(cls: type) -> list[OptionDoc]:
    """Return the documentation of every option of an attrs class, read from the class and its source."""
    attrs.resolve_types(cls)
    meanings = field_docstrings(cls)
    return [
        OptionDoc(
            name=each.name,
            type=type_name(each.type),
            default=_default(each),
            unit=each.metadata.get("unit", unit_of(each.name)),
            meaning=meanings.get(each.name, ""),
        )
        for each in attrs.fields(cls)
    ]


def unit_of(name: str) -> str:
    """Return the unit that a field's name states: `warmup_steps` is in steps; empty for none."""
    if name.endswith("_s"):
        return "seconds"
    words = name.split("_")
    return next((unit for unit in UNITS if unit in (words[0], words[-1])), "")


def _default(each: attrs.Attribute[Any]) -> str:
    value = each.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]  # Factory is a class at run time
        value = value.factory()  # type: ignore[union-attr]
    if value is None:
        return "-"
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value).lower()


def field_docstrings(cls: type) -> dict[str, str]:
    """Return the string that stands under each field in the source of `cls` and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = _class_body(base)
        for statement, after in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[statement.target.id] = inspect.cleandoc(text.value)
    return found


def _class_body(cls: type) -> list[ast.stmt]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made at run time: there is no source to read
        return []
    statement = ast.parse(source).body[0]
    return statement.body if isinstance(statement, ast.ClassDef) else []
