"""The figures of a run: what its table says, and how far it got."""

from __future__ import annotations

import json
import math
import statistics
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.report.series import Series

QUIET_S = 300
"""Seconds without a new row after which a run that is not done no longer counts as running."""


@frozen
class Figures:
    """The row of a run in the table. Losses in nats per counted token; None where it is not known."""

    steps: int
    steps_planned: int | None
    tokens: int
    best_val_loss: float | None
    best_val_step: int | None
    final_val_loss: float | None
    final_train_loss: float | None
    tokens_per_s: float | None
    """Median over the steps: the first ones are slow."""
    train_seconds: float | None
    """Time in training steps, over all resumes; without evaluations and checkpoints."""
    peak_memory_bytes: float | None
    parameters: int | None


def figures_of(metrics: Mapping[str, Series], planned: int | None, parameters: int | None) -> Figures:
    """Return the figures of a run from its curves."""
    held_out, speed = metrics.get("val/loss", Series()), metrics.get("tokens_per_s", Series())
    best = min(held_out.finite(), key=held_out.values.__getitem__, default=None)
    memory = metrics.get("memory_bytes", Series())
    speeds = [speed.values[i] for i in speed.finite()]
    return Figures(
        steps=int(max(series.steps[-1] for series in metrics.values())),
        steps_planned=planned,
        tokens=int(max(series.tokens[-1] for series in metrics.values())),
        best_val_loss=None if best is None else held_out.values[best],
        best_val_step=None if best is None else int(held_out.steps[best]),
        final_val_loss=last(held_out),
        final_train_loss=last(metrics.get("train/loss", Series())),
        tokens_per_s=statistics.median(speeds) if speeds else None,
        train_seconds=seconds_of(speed),
        peak_memory_bytes=max((memory.values[i] for i in memory.finite()), default=None),
        parameters=parameters,
    )


def last(series: Series) -> float | None:
    """Return the last value of a series that is a number."""
    return next((value for value in reversed(series.values) if value == value), None)


def seconds_of(speed: Series) -> float | None:
    """Return the time the steps took together, from their tokens and their tokens a second."""
    total, before = 0.0, 0.0
    for tokens, rate in zip(speed.tokens, speed.values, strict=True):
        if rate > 0:
            total += (tokens - before) / rate
        before = tokens
    return total if total > 0 else None


def parameters_of(model: Path) -> int | None:
    """Return the number of weights in a model folder, from the headers of its safetensors files."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        try:
            tensors = safetensors_header(path)
        except (struct.error, ValueError):  # a broken model is for who loads it to tell; its curves are still good
            return None
        if any(each["dtype"] not in ("F64", "F32", "F16", "BF16") for each in tensors):
            return None  # packed numbers: a stored element is no weight
        total += sum(math.prod(each["shape"]) for each in tensors)
    return total or None


def safetensors_header(path: Path) -> list[dict[str, Any]]:
    """Return dtype and shape of each tensor of a file; the safetensors package would need numpy for that.

    Raises:
        ValueError, struct.error: it is no safetensors file.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > path.stat().st_size:
            raise ValueError(f"{path}: is cut short")
        header = json.loads(file.read(size))
    return [each for key, each in header.items() if key != "__metadata__"]


def state_of(folder: Path, figures: Figures, metrics: Path) -> str:
    """Return how far a run got; `model/` is written at its end, whatever made it end."""
    if figures.steps_planned is not None and figures.steps >= figures.steps_planned:
        return "finished"
    model = folder / "model"
    if model.is_dir() and model.stat().st_mtime >= metrics.stat().st_mtime:
        return "finished" if figures.steps_planned is None else "stopped early"
    return "running" if time.time() - metrics.stat().st_mtime < QUIET_S else "not finished"
