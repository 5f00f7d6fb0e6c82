"""The options of the trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import field, frozen, validators


@frozen
class TrackerOptions:
    """What every tracker takes. An option that is set wins over the client's variable, and that over our default."""

    every: int = field(default=1, validator=validators.ge(1), metadata={"unit": "steps"})
    """Steps between logged rows; evaluations are always logged. Every step: the clients collect rows themselves."""

    timeout_s: float = field(default=60.0, validator=validators.gt(0))
    """Seconds to wait for the last rows to be sent, and for wandb to start. A minute: a client may try forever."""


@frozen
class TensorboardOptions(TrackerOptions):
    folder: Path | None = None
    """Folder of the event files. Unset: `tensorboard` in the run folder, so `tensorboard --logdir runs` shows all."""


@frozen
class WandbOptions(TrackerOptions):
    mode: Literal["online", "offline"] | None = None
    """Send rows as they come, or write them to disk for `wandb sync`. Unset: WANDB_MODE, or else online."""

    project: str | None = None
    """Project the run is put in. Unset: WANDB_PROJECT, or else "llmx"."""

    entity: str | None = None
    """User or team that owns the project. Unset: WANDB_ENTITY, or else the account's own."""

    run_name: str | None = None
    """Name shown for the run. Unset: WANDB_NAME, or else the name of the run folder."""

    group: str | None = None
    """Name that runs are grouped by. Unset: WANDB_RUN_GROUP, or else none."""

    tags: tuple[str, ...] = ()
    """Labels of the run, to find it by. None by default."""

    folder: Path | None = None
    """Folder in which `wandb/` is made. Unset: WANDB_DIR, or else the run folder."""


@frozen
class SwanlabOptions(TrackerOptions):
    mode: Literal["online", "offline"] | None = None
    """Send rows as they come, or write them to disk for `swanlab sync`. Unset: SWANLAB_MODE, or else online. The
    client's third mode, `local`, is no choice here: its dashboard is given up and cannot go on with a run."""

    project: str | None = None
    """Project the run is put in. Unset: SWANLAB_PROJ_NAME, or else "llmx"."""

    workspace: str | None = None
    """User or organisation that owns the project. Unset: SWANLAB_WORKSPACE, or else the account's own."""

    run_name: str | None = None
    """Name shown for the run. Unset: SWANLAB_EXP_NAME, or else the name of the run folder."""

    group: str | None = None
    """Name that runs are grouped by. Unset: SWANLAB_GROUP, or else none."""

    tags: tuple[str, ...] = ()
    """Labels of the run, to find it by. None by default."""

    folder: Path | None = None
    """Folder of the client's files. Unset: SWANLAB_LOG_DIR, or else `swanlab` in the run folder."""


@frozen
class TrackioOptions(TrackerOptions):
    space: str | None = None
    """Hugging Face Space the rows are sent to, "user/name"; made if there is none. Unset: TRACKIO_SPACE_ID, or else
    none, and the rows stay on this disk."""

    private: bool = True
    """Whether a Space that is made is private. It is: a recipe may name files and people."""

    project: str = "llmx"
    """Project the run is put in."""

    run_name: str | None = None
    """Name shown for the run. Unset: the name of the run folder."""

    group: str | None = None
    """Name that runs are grouped by. None by default."""

    folder: Path | None = None
    """Folder of the client's database. Unset: TRACKIO_DIR, or else `trackio` in the run folder; to show several runs
    side by side, give them one."""
