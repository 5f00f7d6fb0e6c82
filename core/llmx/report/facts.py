"""What a run folder says about its run: figures, options, versions, samples, and how far it got."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.errors import DataError, RecipeError
from llmx.folder import RECIPE, differences, is_run
from llmx.lock import LOCK, read_lock
from llmx.report.figures import Figures, figures_of, parameters_of, state_of
from llmx.report.series import Series, number_of, read_metrics, read_rows

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
SAMPLE_STEPS = 3
"""Steps whose samples are kept, the last ones."""

HASH_CHARS = 12
"""Characters of a SHA-256 that are shown."""

Flat = Mapping[str, Any]
"""Options by their dotted path."""


@frozen
class Sample:
    """A text the model made on the way."""

    step: int
    prompt: str
    text: str


@frozen
class Facts:
    """Everything a report says about one run."""

    name: str
    state: str
    """One of: finished, stopped early, running, not finished."""
    last_row: datetime
    figures: Figures
    recipe_text: str
    options: Flat
    versions: Mapping[str, str]
    samples: Sequence[Sample]
    metrics: Mapping[str, Series]


def read_facts(folder: Path, name: str) -> Facts:
    """Read a run folder.

    Raises:
        RecipeError: it is no run, or its recipe does not parse.
        DataError: it has no metrics yet, or a row of them is wrong.
    """
    if not is_run(folder):
        what = f"holds no run (no {RECIPE} and {LOCK})" if folder.is_dir() else "no such folder"
        raise RecipeError(f"{folder}: {what}: give the folder of a run")
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
        recipe = tomllib.loads(text)
    except ValueError as error:  # no TOML, or no UTF-8
        raise RecipeError(f"{folder / RECIPE}: does not parse: {error}") from None
    path = metrics_path(folder, recipe)
    metrics = read_metrics(path)
    if not metrics:
        raise DataError(f"{path}: holds no step yet: wait for the first, or go on: llmx run {folder} --resume")
    figures = figures_of(metrics, planned_steps(recipe), parameters_of(folder / "model"))
    return Facts(
        name=name,
        state=state_of(folder, figures, path),
        last_row=datetime.fromtimestamp(path.stat().st_mtime).astimezone(),
        figures=figures,
        recipe_text=text,
        options=dict(flat(recipe)),
        versions=versions_of(read_lock(folder)),
        samples=read_samples(folder / SAMPLES),
        metrics=metrics,
    )


def metrics_path(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """Return where the logger jsonl of a run writes.

    Raises:
        DataError: there is no such file.
    """
    loggers = [each for each in recipe.get("logger", []) if isinstance(each, Mapping)]
    named = [each for each in loggers if str(each.get("name")).rpartition(":")[2] == "jsonl"]
    path = folder / str(named[0].get("file", METRICS) if named else METRICS)
    if path.is_file():
        return path
    if named:
        raise DataError(f"{path}: no such file: the run has taken no step yet")
    raise DataError(f'{folder}: has no metrics, its recipe names no logger "jsonl": train with --logger jsonl')


def planned_steps(recipe: Mapping[str, Any]) -> int | None:
    """Return the steps a recipe asks for; None where it says how long in epochs."""
    steps = recipe.get("train", {}).get("steps")
    return steps if isinstance(steps, int) else None


# --- recipe and versions --------------------------------------------------------------------------------------------


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of every option; parts in a list are addressed by their names."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) and "name" in each for each in value):
            yield path, [each["name"] for each in value]
            for each in value:
                yield from flat({k: v for k, v in each.items() if k != "name"}, f"{path}.{each['name']}.")
        else:
            yield path, value


def differing(tables: Sequence[Flat]) -> list[tuple[str, list[Any]]]:
    """Return (path, value in each table) of every path in which any two tables differ; None where it is missing."""
    paths = {path[1:] for other in tables[1:] for path, _, _ in differences("", tables[0], other)}
    order = dict.fromkeys(path for table in tables for path in table)
    return [(path, [table.get(path) for table in tables]) for path in order if path in paths]


def versions_of(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return what made a run as name and version; hashes are shortened to what tells them apart."""
    found: dict[str, str] = {}
    for key, value in lock.items():
        if not isinstance(value, Mapping):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[key] = text[:HASH_CHARS] if key.endswith("sha256") else text
    for kind in ("plugins", "hooks"):
        table = lock.get(kind)
        for name, value in (table if isinstance(table, Mapping) else {}).items():
            found[f"{kind.rstrip('s')} {name}"] = version_text(value)
    return found


def version_text(value: Any) -> str:
    """Return a plugin's version with a hash of its files, or a hook file's hash, from any form `lock.json` has had."""
    if not isinstance(value, Mapping):
        return value[:HASH_CHARS] if isinstance(value, str) and len(value) == 64 else str(value)
    files = {key: each for key, each in value.items() if key != "version" and each}
    version = str(value.get("version", "?"))
    if not files:
        return version
    digest = value.get("sha256") or hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return f"{version} (files {str(digest)[:HASH_CHARS]})"


# --- samples --------------------------------------------------------------------------------------------------------


def read_samples(path: Path) -> list[Sample]:
    """Return the texts of the last steps at which a run made some, the newest step first.

    Raises:
        DataError: a row has no step or no text.
    """
    if not path.is_file():
        return []
    steps: deque[list[Sample]] = deque(maxlen=SAMPLE_STEPS)
    for number, row in read_rows(path):
        step, text = number_of(row.get("step")), row.get("text")
        if step is None or not math.isfinite(step) or not isinstance(text, str):
            raise DataError(f"{path}, line {number}: has no step or no text: remove the line")
        while steps and steps[-1][0].step > step:  # from before a resume
            steps.pop()
        if not steps or steps[-1][0].step != step:
            steps.append([])
        steps[-1].append(Sample(int(step), str(row.get("prompt", "")), text))
    return [sample for each in reversed(steps) for sample in each]


def to_json(runs: Sequence[Facts]) -> str:
    """Return figures and differences of runs as JSON for scripts."""
    rows = [{"run": run.name, "state": run.state, **attrs.asdict(run.figures)} for run in runs]
    names = [run.name for run in runs]
    options = {path: dict(zip(names, values, strict=True)) for path, values in differing([run.options for run in runs])}
    return json.dumps({"runs": rows, "differences": options}, indent=1, ensure_ascii=False, default=str)
