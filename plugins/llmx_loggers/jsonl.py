"""Metrics as JSON lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

from llmx import hookimpl
from llmx_loggers import JsonlOptions

if TYPE_CHECKING:
    from llmx.assembly import Run


class JsonlLogger:
    """Appends to a file that a resumed run first cuts back to where its checkpoint was."""

    def __init__(self, options: JsonlOptions, run: Run) -> None:
        self.path = run.folder / options.file
        self.size_bytes = 0
        self._file: TextIO | None = None

    def state_dict(self) -> dict[str, Any]:
        if self._file is not None:
            self._file.flush()
            self.size_bytes = self.path.stat().st_size
        return {"size_bytes": self.size_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size_bytes = state["size_bytes"]

    @hookimpl
    def llmx_before_run(self) -> None:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line is on disk when it is written
        if self.path.stat().st_size > self.size_bytes:
            self._file.truncate(self.size_bytes)

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
            self._file.write(json.dumps(metrics) + "\n")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
