"""The conformance kit: it passes every built-in, and finds a planted fault for each of its checks."""

from __future__ import annotations

import atexit
import importlib.util
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmx import Component, Registry, errors
from llmx.component import KINDS
from llmx.options import structure
from llmx.plugins import Plugin
from llmx.recipe import Part
from llmx.registry import Offer
from llmx.testing.corpus import prose
from llmx.testing.frame import Check, Subject, parts_of, run_check, suite
from llmx.testing.samples import RECORDS, WRITERS

HERE = Path(__file__).parent
PLANTED = Plugin(name="planted", distribution="planted", version="0", module="planted", status="ok")


def faults_module(kind: str) -> ModuleType:
    """Import `faults/<kind>.py`, whose `FAULTS` are pairs of a check's name and a component that breaks it alone."""
    name = f"llmx_faults_{kind}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "faults" / f"{kind}.py")
        assert spec
        assert spec.loader
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def planted() -> list[Any]:
    """Every planted fault of every kind, as test parameters."""
    found = []
    for kind in KINDS:
        for check, component, *values in faults_module(kind).FAULTS:
            found.append(pytest.param(kind, check, component, *(values or [{}]), id=f"{kind}-{check}-{component.name}"))
    assert len(found) >= 40
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_has_a_fault_that_it_finds(kind: str) -> None:
    """A check that no fault was planted for may check nothing."""
    checks = {check.name for check in suite(kind)}
    assert checks
    assert all(check.promise.endswith(".") for check in suite(kind))
    assert {name for name, *_ in faults_module(kind).FAULTS} == checks


@pytest.mark.parametrize(("kind", "check", "component", "values"), planted())
def test_a_planted_fault_is_found(
    kind: str, check: str, component: Component, values: dict[str, Any], tmp_path: Path
) -> None:
    """The check that is meant for it fails, and says more than nothing: no exception but the one in `CRASHES`, so that
    a slip in the fault itself is not taken for a find."""
    (wanted,) = [each for each in suite(kind) if each.name == check]
    options, faults = structure(component.options, values, component.name)
    assert not faults
    result = run_check(wanted, Subject(Part(component.name, Offer(kind, component, PLANTED), options), tmp_path))
    assert result.status == "failed", result
    assert len(result.message) > 10
    meant = getattr(faults_module(kind), "CRASHES", {}).get(component.name)
    raised = [name for name in RAISED.findall(result.message) if not hasattr(errors, name)]  # ours say what is wrong
    assert raised[:1] == [meant] * (meant is not None), result.message


def hub_folder() -> Path:
    """Return a folder that the client of the Hugging Face Hub reads as a dataset; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="llmx-hub-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    WRITERS[".jsonl"](folder / "train.jsonl", list(prose()[:RECORDS]))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_crash_that_is_meant_is_of_a_fault(kind: str) -> None:
    """A name in `CRASHES` that no fault has would excuse nothing, or a fault that comes later."""
    module = faults_module(kind)
    assert getattr(module, "CRASHES", {}).keys() <= {component.name for _, component, *_ in module.FAULTS}


RAISED = re.compile(r"\b([A-Z]\w*(?:Error|Exception|Iteration|Exit)): ")
"""An exception as messages name it: one of the part itself, whether the check met it or llmx put its place before."""

BUILTIN_OPTIONS: dict[str, dict[str, Any]] = {
    "huggingface": {"path": str(hub_folder())},
    "modelscope": {"path": "owner/name"},
    "tinyllm": {"preset": "nano"},
    "torch-optim": {"algorithm": "RMSprop"},
    "transformers": {
        "model_type": "gpt2",
        "fields": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    },
}

SKIPS = {
    "special-tokens-that-are-asked-for": {"tokenizer hf"},
    "known-formula": {"objective dpo"},
    "vocab-size-is-as-asked": {"tokenizer char", "tokenizer hf"},
    "the-fingerprint-follows-the-content": {"dataset huggingface", "dataset python-docs"},
    "a-missing-path-is-said": {"dataset huggingface", "dataset python-docs"},
    "records-each-step-once": {f"logger {each}" for each in ("console", "swanlab", "tensorboard", "trackio", "wandb")},
    "known-algorithm": {f"optimizer {each}" for each in ("adamw8bit", "muon", "torch-optim")},
    "state-round-trip": {"logger console", "logger jsonl", "callback profiler", "callback samples"},
    **{check: {"adapter int8", "adapter nf4"} for check in ("identity", "trains", "merge-untrained")},
}
"""Checks that say nothing about some of ours."""


def builtin() -> list[Any]:
    """Every check of every part that llmx itself offers, as test parameters."""
    parts = parts_of("llmx", Registry(), BUILTIN_OPTIONS)
    assert len(parts) > 20
    return [
        pytest.param(part, check, id=f"{part.kind}-{part.offer.component.name}-{check.name}")
        for part in parts
        # the one asks a hub: tests/plugins/datasets/test_remote.py plays one; the other needs a tokenizer.json
        if part.offer.component.name not in ("modelscope", "json-schema")
        for check in suite(part.kind)
    ]


@pytest.mark.parametrize(("part", "check"), builtin())
def test_every_built_in_part_passes(part: Part, check: Check, tmp_path: Path) -> None:
    """Ours keep the promises that a stranger's must, each that applies to it; `SKIPS` has those that do not."""
    result = run_check(check, Subject(part, tmp_path))
    skipped = f"{part.kind} {part.offer.component.name}" in SKIPS.get(check.name, ())
    assert result.status == ("skipped" if skipped else "passed"), result.message


def test_every_skip_is_of_a_part_and_a_check() -> None:
    """A name in `SKIPS` that is none any more would excuse one that comes later."""
    pairs = {(check.name, f"{part.kind} {part.offer.component.name}") for part, check in (p.values for p in builtin())}
    assert {(check, part) for check, parts in SKIPS.items() for part in parts} <= pairs


def correct() -> list[Any]:
    """Parts that are unusual and right, with the check that might accuse them, as test parameters."""
    found = [
        pytest.param(kind, check, component, *(values or [{}]), id=f"{kind}-{check}-{component.name}")
        for kind in KINDS
        for check, component, *values in getattr(faults_module(kind), "CORRECT", [])
    ]
    assert len(found) >= 20
    return found


@pytest.mark.parametrize(("kind", "check", "component", "values"), correct())
def test_a_correct_part_is_not_accused(
    kind: str, check: str, component: Component, values: dict[str, Any], tmp_path: Path
) -> None:
    """An author must be able to trust a failure: "*" stands for every check of the kind."""
    checks = [each for each in suite(kind) if check in ("*", each.name)]
    assert checks
    options, faults = structure(component.options, values, component.name)
    assert not faults
    for each in checks:
        folder = tmp_path / each.name
        folder.mkdir()
        result = run_check(each, Subject(Part(component.name, Offer(kind, component, PLANTED), options), folder))
        assert result.status != "failed", (each.name, result.message)
