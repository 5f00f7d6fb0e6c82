"""Texts that the model makes on its way."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, TextIO

from llmx import RecipeError, hookimpl
from llmx.files import kept_bytes
from llmx_callbacks.terminal import say

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_callbacks import SamplesOptions

FILE = "samples.jsonl"


class Samples:
    """Continues the same prompts with the same draws each time, so that only the model differs.

    The weights are those that train, also where `ema` evaluates others. `samples.jsonl` has a row for each text:
    `{"step": int, "prompt": str, "text": str}`, and a resumed run first takes away those after its checkpoint.
    """

    def __init__(self, options: SamplesOptions, run: Run) -> None:
        self.every = options.every or max(1, run.sizes.steps // 10)
        self.max_new_tokens = options.max_new_tokens
        self.prompts = run.prompts()
        if not self.prompts:
            raise RecipeError(
                "callback.samples: there is nothing to continue: give generate.prompts, or set generate.samples and "
                "data.held_out above 0"
            )
        self.path = run.folder / FILE
        self._file: TextIO | None = None

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        if run.world.main:
            self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line is written out when it is whole
            self._file.truncate(kept_bytes(self.path, run.state.step))

    @hookimpl
    def llmx_after_step(self, run: Run) -> None:
        if self._file is None or run.state.step % self.every:
            return
        for prompt in self.prompts:
            text = run.generate(prompt, max_new_tokens=self.max_new_tokens)
            self._file.write(json.dumps({"step": run.state.step, "prompt": str(prompt), "text": text}) + "\n")
            say(run, f"step {run.state.step}: {prompt} | {text}")

    @hookimpl
    def llmx_after_checkpoint(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())  # a checkpoint survives a power cut, and so must the rows before it

    @hookimpl
    def llmx_after_run(self) -> None:
        self._close()

    @hookimpl
    def llmx_run_failed(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
