"""Metrics for Weights & Biases, sent as they come or kept for `wandb sync`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx_loggers.recordlog import HEADER, records
from llmx_loggers.tracker import Tracker, Values, require

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_loggers.options import WandbOptions


class WandbLogger(Tracker):
    """One wandb run, by the id of the run; wandb takes no step twice and none that goes back.

    Offline, every start writes a file of its own. Together they hold each step once, and `wandb sync RUN/wandb/*` joins
    them in order, since each says that it resumes.
    """

    name = "wandb"
    advice = '`logger.wandb.mode="offline"` writes to the run folder'

    def __init__(self, options: WandbOptions, run: Run) -> None:
        super().__init__(options, run)
        self.options = options
        self.wandb = require(self.name, "wandb")
        self.client: Any = None
        self._require_key()

    def _require_key(self) -> None:
        """Check that an online run can log in, before anything is started: `wandb.init` would ask on a terminal.

        Raises:
            PluginError: it cannot.
        """
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib.wbauth import authenticate_session

        settings = wandb_setup.singleton().settings  # from the variables and files of the client; starts nothing
        if (self.options.mode or settings.mode) != "online":
            return
        try:
            found = authenticate_session(host=settings.base_url, source="llmx", prompt=False, update_session=False)
        except self.wandb.Error as error:
            raise self.refusal(f"cannot log in: {error}") from error
        if found is None:
            raise self.refusal("no API key: run `wandb login` or set WANDB_API_KEY")

    def start(self, run: Run, first_step: int) -> None:
        given = self.options
        folder = given.folder or Path(os.environ.get("WANDB_DIR", run.folder))
        folder.mkdir(parents=True, exist_ok=True)
        # the console stays the run's own: nothing printed, nothing captured
        settings = self.wandb.Settings(
            silent=True,
            console="off",
            init_timeout=given.timeout_s,
            finish_timeout=given.timeout_s * 0.8,  # before our own patience ends, so that it can close in order
            finish_timeout_raises=True,
        )
        self.wandb.termsetup(settings, None)  # `_require_key` has set up what it prints before these settings
        self.client = self.wandb.init(
            id=run.id,
            resume="allow",
            mode=given.mode,
            project=given.project or os.environ.get("WANDB_PROJECT", "llmx"),
            entity=given.entity,
            name=given.run_name or os.environ.get("WANDB_NAME", run.folder.name),
            group=given.group,
            tags=given.tags or None,
            dir=str(folder),
            config=run.recipe.to_plain(),
            settings=settings,
        )
        if self.client.offline:
            self.last = last_steps(self._files(run.id))
        elif self.client.url:  # None where WANDB_MODE=disabled
            self.floor = self.client.starting_step - 1 if self.client.resumed else 0
            self.say(f"this run is at {self.client.url}")

    def _files(self, run_id: str) -> list[Path]:
        """Return the files of earlier starts that have rows."""
        files = Path(self.client.settings.wandb_dir).glob(f"*run-*/run-{run_id}.wandb")
        own = Path(self.client.settings.sync_file).resolve()
        return [path for path in files if path.resolve() != own and not self._put_aside(path)]

    def _put_aside(self, path: Path) -> bool:
        """Take a file without a readable record out of the way: `wandb sync` ends at such a one.

        One that a kill left empty is deleted; one that has more than a header was damaged, and its rows may be of use.
        """
        if any(records(path)):
            return False
        if path.stat().st_size <= HEADER:
            path.unlink()
        else:
            damaged = path.rename(f"{path}.damaged")
            self.say(f"{path}: its first record cannot be read; it is now called {damaged.name}")
        return True

    def send(self, step: int, values: Values) -> None:
        self.client.log(dict(values), step=step)

    def stop(self, error: BaseException | None) -> None:
        code = 0 if error is None else getattr(error, "exit_code", 1)
        try:
            self.client.finish(exit_code=code)
        finally:
            self.wandb.teardown(exit_code=code)  # ends the process that wandb keeps beside this one


def last_steps(files: Iterable[Path]) -> dict[str, int]:
    """Return the newest step of each metric that the files of a run hold."""
    from wandb.proto.wandb_internal_pb2 import Record

    last: dict[str, int] = {}
    for path in files:
        for raw in records(path):
            record = Record.FromString(raw)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                last[name] = max(last.get(name, 0), record.history.step.num)
    return last
