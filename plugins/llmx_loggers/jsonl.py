"""Metrics as JSON lines."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, TextIO

from llmx import hookimpl
from llmx_loggers import JsonlOptions

if TYPE_CHECKING:
    from pathlib import Path

    from llmx.assembly import Run


class JsonlLogger:
    """Appends to a file from which a resumed run first takes the rows after its checkpoint."""

    def __init__(self, options: JsonlOptions, run: Run) -> None:
        self.path = run.folder / options.file
        self._file: TextIO | None = None

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line is written out when it is whole
        self._file.truncate(kept_bytes(self.path, run.state.step))

    @hookimpl
    def llmx_after_checkpoint(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())  # a checkpoint survives a power cut, and so must the rows before it

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self._write(metrics)

    @hookimpl
    def llmx_after_eval(self, metrics: dict[str, float]) -> None:
        self._write(metrics)

    @hookimpl
    def llmx_after_run(self) -> None:
        self._close()

    @hookimpl
    def llmx_run_failed(self) -> None:
        self._close()

    def _write(self, metrics: dict[str, float]) -> None:
        if self._file is not None:
            finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            self._file.write(json.dumps(finite) + "\n")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def kept_bytes(path: Path, step: int) -> int:
    """Return where the first row after `step`, or one that a kill left broken, begins."""
    kept = 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return kept
            if row["step"] > step:
                return kept
            kept += len(line)
    return kept
