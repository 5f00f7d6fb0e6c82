"""Metrics for Trackio: a database on this disk, or a Hugging Face Space."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx_loggers.tracker import Tracker, Values, require

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_loggers.options import TrackioOptions


class TrackioLogger(Tracker):
    """One run of a project, by the id of the run; rows that the database or the Space holds are not sent again."""

    name = "trackio"
    advice = "without `logger.trackio.space` the rows stay on this disk"

    def __init__(self, options: TrackioOptions, run: Run) -> None:
        super().__init__(options, run)
        self.options = options
        self.trackio = require(self.name, "trackio")
        self.client: Any = None
        if options.space or os.environ.get("TRACKIO_SPACE_ID"):
            from huggingface_hub import get_token

            if get_token() is None:
                raise self.refusal("no Hugging Face token: run `hf auth login` or set HF_TOKEN")

    def start(self, run: Run, first_step: int) -> None:
        given = self.options
        use_folder(given.folder or Path(os.environ.get("TRACKIO_DIR", run.folder / "trackio")))
        self.client = self.trackio.init(
            project=given.project,
            name=given.run_name or run.folder.name,
            group=given.group,
            space_id=given.space,
            private=given.private,
            config=run.recipe.to_plain(),
            resume="allow",
            embed=False,
            auto_log_cpu=False,  # a run has its own measures of memory and speed
            auto_log_gpu=False,
        )
        self.trackio.context_vars.current_run.set(None)  # its hook at exit would finish the run again, with a banner
        self.client._warn_once = lambda _, text: self.warn(text)  # it warns and does not raise
        if self.client._is_local:
            self.last = last_steps(given.project, run.id)
        elif self.client.id == run.id:
            self.floor = self.client._next_step - 1
        self.client.id = run.id  # `init` goes by the name, which another run may have had

    def send(self, step: int, values: Values) -> None:
        self.client.log(dict(values), step=step)

    def stop(self, error: BaseException | None) -> None:
        self.client.finish()


def use_folder(folder: Path) -> None:
    """Make `folder` the client's own. It fixes one when it is imported, so a second run of a process needs this."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio" and hasattr(module, "TRACKIO_DIR"):
            module.TRACKIO_DIR = folder


def last_steps(project: str, run_id: str) -> dict[str, int]:
    """Return the newest step of each metric that the database holds of a run."""
    from trackio.fragments import import_inbox_dir
    from trackio.sqlite_storage import SQLiteStorage

    import_inbox_dir()  # on a network disk the client writes files and leaves the database to its readers
    last: dict[str, int] = {}
    for row in SQLiteStorage.get_logs(project, run_id=run_id):
        last |= {name: max(last.get(name, 0), row["step"]) for name in row}
    return last
