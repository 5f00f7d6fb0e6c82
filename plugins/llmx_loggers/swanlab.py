"""Metrics for SwanLab, sent as they come or kept for `swanlab sync`."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx import StoppedError
from llmx_loggers.recordlog import records
from llmx_loggers.tracker import Tracker, Values, reason, require

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_loggers.options import SwanlabOptions


class SwanlabLogger(Tracker):
    """One experiment, by the id of the run.

    Offline, every start writes a folder of its own, and together they hold each step once;
    `swanlab sync --id ID FOLDER` of each in order joins them. Online, the client itself leaves out a step that the
    server has.
    """

    name = "swanlab"
    advice = '`logger.swanlab.mode="offline"` writes to the run folder'

    def __init__(self, options: SwanlabOptions, run: Run) -> None:
        super().__init__(options, run)
        self.options = options
        self.swanlab = require(self.name, "swanlab")
        self.client: Any = None
        settings = self.swanlab.Settings()
        if (options.mode or settings.mode) == "online" and not settings.api_key:
            raise self.refusal("no API key: run `swanlab login` or set SWANLAB_API_KEY")

    def start(self, run: Run, first_step: int) -> None:
        faults = self._silence()
        try:
            self.client = self.swanlab.init(**self._arguments(run))
        except Exception as error:  # what it printed says more than what it raises
            raise self.refusal(f"could not start: {faults.last or reason(error)}") from error
        self.client._is_main_thread = False  # signals are the run's own; without this, `finish` sets a handler
        if self.client.mode == "online":
            self.say(f"this run is at {self.client.url}")
        else:
            self.last = last_steps(Path(self.client.dir).parent, run.id)

    def _arguments(self, run: Run) -> dict[str, Any]:
        given, settings = self.options, self.swanlab.Settings
        folder = given.folder or Path(os.environ.get("SWANLAB_LOG_DIR", run.folder / "swanlab"))
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "id": run.id,
            "resume": "allow",
            "mode": given.mode,
            "project": given.project or os.environ.get("SWANLAB_PROJ_NAME", "llmx"),
            "workspace": given.workspace,
            "name": given.run_name or os.environ.get("SWANLAB_EXP_NAME", run.folder.name),
            "group": given.group,
            "tags": list(given.tags) or None,
            "log_dir": str(folder),
            "config": run.recipe.to_plain(),
            # the console stays the run's own: nothing asked, nothing captured
            "settings": settings(interactive=False, terminal=settings.Terminal(proxy_type="none")),
        }

    def _silence(self) -> Faults:
        """Take the client's banners off the terminal, and its faults, which it prints and does not raise."""
        from rich.console import Console
        from swanlab.sdk.internal.pkg import console

        faults = Faults(self)
        console.c = Console(file=faults, width=1000, highlighter=None)
        return faults

    def send(self, step: int, values: Values) -> None:
        self.client.log(dict(values), step=step)

    def stop(self, error: BaseException | None) -> None:
        if error is None:
            self.client.finish()
        else:
            state = "aborted" if isinstance(error, StoppedError) else "crashed"
            self.client.finish(state=state, error=reason(error))


class Faults(io.StringIO):
    """What the client prints to: `TIME | LEVEL | PLACE - TEXT`, of which a fault becomes the tracker's warning."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker
        self.last = ""

    def write(self, text: str) -> int:
        parts = text.split(" | ", 2)
        if len(parts) == 3 and parts[1].strip() in ("ERROR", "WARNING"):
            self.last = " ".join(parts[2].partition(" - ")[2].split())
            if self.tracker.running:
                self.tracker.warn(self.last)
        return len(text)


def last_steps(folder: Path, run_id: str) -> dict[str, int]:
    """Return the newest step of each metric that the files of a run hold on disk."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    last: dict[str, int] = {}
    for path in folder.glob(f"run-*/run-{run_id}.swanlab"):
        for raw in records(path):
            record = Record.FromString(raw)
            if record.HasField("scalar"):
                last[record.scalar.key] = max(last.get(record.scalar.key, 0), record.scalar.step)
    return last
