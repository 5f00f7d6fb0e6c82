"""Metrics as JSON lines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from llmx import hookimpl
from llmx.files import kept_bytes
from llmx_loggers import JsonlOptions

if TYPE_CHECKING:
    from llmx.assembly import Run


class JsonlLogger:
    """Appends to a file from which a resumed run first takes the rows after its checkpoint.

    A file that cannot be written any more is one warning; the run goes on.
    """

    def __init__(self, options: JsonlOptions, run: Run) -> None:
        self.path = run.folder / options.file
        self._file: TextIO | None = None

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line is written out when it is whole
        self._file.truncate(kept_bytes(self.path, run.state.step))

    @hookimpl
    def llmx_after_checkpoint(self) -> None:
        with self._guarded():
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
        with self._guarded():
            if self._file is not None:
                finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
                self._file.write(json.dumps(finite) + "\n")

    def _close(self) -> None:
        with self._guarded():
            file, self._file = self._file, None
            if file is not None:
                file.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Write no more after an error: a row that is half there would hide those behind it from a resumed run."""
        try:
            yield
        except OSError as error:
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):  # what is held back still cannot be written
                    file.close()
            reason = error.strerror or error
            with contextlib.suppress(OSError):  # stderr may be a file on the same full disk
                sys.stderr.write(f"llmx: logger jsonl: {self.path}: {reason}; it gets no more rows; the run goes on\n")
