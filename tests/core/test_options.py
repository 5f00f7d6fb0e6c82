"""Options: strict types, then ranges, every fault at once, and documentation from the class itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen, validators
from hypothesis import given
from hypothesis import strategies as st

from llmx.options import describe, structure, structure_value, unstructure


@frozen
class Options:
    """For these tests."""

    lr: float = field(default=1e-3, validator=validators.gt(0))
    """Peak rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    size: int | Literal["auto"] = "auto"
    """How many.
    A second line."""
    mode: Literal["a", "b"] = "a"
    warmup_steps: int | None = None
    names: tuple[str, ...] = ()
    flag: bool = False
    path: Path | None = None


def faults_of(**values: Any) -> dict[str, str]:
    return {fault.path: fault.message for fault in structure(Options, values, "x")[1]}


def test_good_values_become_their_types() -> None:
    """An int is a float where one is wanted, a list is a tuple, a string a path."""
    options, faults = structure(Options, {"lr": 1, "betas": [0, 0.5], "size": 3, "names": ["n"], "path": "p"}, "x")
    assert not faults
    assert options == Options(lr=1.0, betas=(0.0, 0.5), size=3, names=("n",), path=Path("p"))
    assert type(options.lr) is float


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("flag", "False", "bool"),
        ("flag", 0, "bool"),
        ("warmup_steps", 1.9, "int"),
        ("warmup_steps", True, "int"),
        ("warmup_steps", "3", "int"),
        ("lr", "1e-3", "float"),
        ("lr", True, "float"),
        ("size", "big", 'int or "auto"'),
        ("mode", "c", '"a" or "b"'),
        ("names", "abc", "list of str"),
        ("betas", [0.9], "list of 2 float"),
        ("betas", [0.9, "x"], "list of 2 float"),
    ],
)
def test_no_value_is_converted_between_kinds(name: str, value: Any, wanted: str) -> None:
    """`"False"` is no bool, `1.9` and `true` no int; the message says what is wanted."""
    assert f"must be {wanted}, not {value!r}" in faults_of(**{name: value})[f"x.{name}"]


def test_one_text_for_a_list_is_shown_as_a_list() -> None:
    """How to write it is part of the message, in the form that TOML and the command line take."""
    assert faults_of(names="user")["x.names"] == "must be list of str, not 'user' (str); write [\"user\"]"
    assert faults_of(names=3)["x.names"] == "must be list of str, not 3 (int)"


@pytest.mark.parametrize("value", [3, [1], "x", None, [{"a": 1}]])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (dict, "table"),
        (dict[str, Any], "table"),
        (Mapping[str, float], "table of float"),
        (tuple[dict[str, Any], ...], "list of table"),
    ],
)
def test_what_is_no_table_is_refused(kind: Any, wanted: str, value: Any) -> None:
    """A number or a list in the place of a table is a fault as any other."""
    if wanted == "list of table":
        value = [value]
    with pytest.raises(TypeError, match=f"must be {wanted}, not "):
        structure_value(value, kind)


def test_tables_keep_what_they_hold() -> None:
    """Values of any kind stay; those of a kind are structured to it."""
    assert structure_value({"a": [1, {"b": None}]}, dict[str, Any]) == {"a": [1, {"b": None}]}
    assert structure_value({"7": 1}, Mapping[str, float]) == {"7": 1.0}
    with pytest.raises(TypeError, match=r"must be table of float, not \{'7': 'x'\} \(table\)"):
        structure_value({"7": "x"}, Mapping[str, float])


def test_all_faults_are_reported_at_once() -> None:
    """Types, ranges and unknown names, each with its path."""
    found = faults_of(lr=-1.0, flag="no", namse=3)
    assert set(found) == {"x.lr", "x.flag", "x.namse"}
    assert found["x.lr"] == "'lr' must be > 0: -1.0"
    assert found["x.namse"] == "no such option; nearest: names"


def test_a_required_option_is_named() -> None:
    """An option without a default must be given."""

    @frozen
    class Needs:
        path: str

    assert [(f.path, f.message) for f in structure(Needs, {}, "data")[1]] == [("data.path", "is required (str)")]


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.integers())))
def test_int_takes_ints_only(value: Any) -> None:
    """Whatever is no int is refused, bools too; an int comes back as it is."""
    if type(value) is int:
        assert structure_value(value, int) == value
    else:
        with pytest.raises(TypeError):
            structure_value(value, int)


def test_options_are_described_from_their_source() -> None:
    """Name, type, default, unit and the string under the field."""
    docs = {doc.name: doc for doc in describe(Options)}
    assert (docs["lr"].type, docs["lr"].default, docs["lr"].meaning) == ("float", "0.001", "Peak rate.")
    assert docs["size"].meaning == "How many.\nA second line."
    assert docs["warmup_steps"].unit == "steps"
    assert docs["betas"].type == "list of 2 float"


def test_unstructured_options_read_back_equal() -> None:
    """What is written into a run's recipe gives the same options."""
    options = Options(lr=0.5, names=("a", "b"), path=Path("x/y"))
    assert structure(Options, unstructure(options), "x") == (options, [])
