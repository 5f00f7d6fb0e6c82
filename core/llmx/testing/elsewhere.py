"""A part built in another process, where Python hashes strings otherwise: sets come in another order there."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmx.options import structure, unstructure
from llmx.testing.frame import Subject

TIMEOUT_S = 120
START = "import sys; sys.path[:] = sys.argv[1:]; from llmx.testing import elsewhere; elsewhere.answer()"


def in_another_process(subject: Subject, task: str, *arguments: Any) -> Any:
    """Do a task of this module with the part's target and options, and return its result.

    Args:
        task: the name of a function of this module.
        arguments: JSON values for it.
    """
    component, options = subject.part.offer.component, subject.part.options
    modules = {component.target.partition(":")[0], type(options).__module__}
    request = {
        "files": {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)},
        "target": component.target,
        "options": f"{type(options).__module__}:{type(options).__qualname__}",
        "values": unstructure(options),
        "task": task,
        "arguments": arguments,
    }
    done = subprocess.run(
        [sys.executable, "-c", START, *filter(None, sys.path)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": "20030", "PYTHONIOENCODING": "utf-8"},
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"in another process it fails: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    """Read a request from stdin, do its task, and write the result to stdout."""
    request = json.load(sys.stdin)
    for name, file in request["files"].items():
        if file and importlib.util.find_spec(name.partition(".")[0]) is None:  # loaded from a file, not by its name
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec
            assert spec.loader
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    options, faults = structure(_find(request["options"]), request["values"], "options")
    assert not faults, faults
    result = globals()[request["task"]](_find(request["target"]), options, *request["arguments"])
    print(json.dumps(result))  # noqa: T201  # it is how this process answers


def _find(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def build_tokenizer(target: Any, options: Any, texts: list[str], folder: str) -> list[list[int]]:
    """Build a tokenizer from texts, save it, and return the ids of the texts."""
    tokenizer = target.build(options, iter(texts))
    tokenizer.save(Path(folder))
    ids: list[list[int]] = tokenizer.encode_batch(texts)
    return ids


def dataset_fingerprint(target: Any, options: Any) -> str:
    """Return the fingerprint of a dataset."""
    fingerprint: str = target(options).fingerprint()
    return fingerprint
