"""Metrics as TensorBoard event files, written with `torch.utils.tensorboard`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmx_loggers.tracker import Tracker, Values, require

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_loggers.options import TensorboardOptions


class TensorboardLogger(Tracker):
    """A resumed run opens another event file that voids, in the first, the steps it begins with (`purge_step`)."""

    name = "tensorboard"

    def __init__(self, options: TensorboardOptions, run: Run) -> None:
        super().__init__(options, run)
        self.folder = options.folder or run.folder / "tensorboard"
        self.writer_class: Any = require(self.name, "torch.utils.tensorboard").SummaryWriter
        self.writer: Any = None

    def start(self, run: Run, first_step: int) -> None:
        # readers drop what earlier files hold from `first_step` on, so every row from there is sent again
        self.writer = self.writer_class(str(self.folder), purge_step=first_step, flush_secs=10)
        recipe = json.dumps(run.recipe.to_plain(), indent=1, default=str)
        self.writer.add_text("recipe", "".join(f"    {line}\n" for line in recipe.splitlines()), first_step - 1)

    def send(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self.writer.flush()

    def stop(self, error: BaseException | None) -> None:
        self.writer.close()
