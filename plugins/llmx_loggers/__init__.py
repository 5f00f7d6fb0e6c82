"""Loggers: `console` and `jsonl` need nothing else installed; trackers need their clients."""

from __future__ import annotations

from attrs import field, frozen, validators

from llmx import Component, hookimpl
from llmx_loggers.options import SwanlabOptions, TensorboardOptions, TrackioOptions, WandbOptions


@frozen
class ConsoleOptions:
    every: int | None = field(default=None, validator=validators.optional(validators.ge(1)), metadata={"unit": "steps"})
    """Steps between plain lines where the output is no terminal. Unset: a twentieth of the run."""


@frozen
class JsonlOptions:
    file: str = field(default="metrics.jsonl", validator=validators.matches_re(r"[\w-]+\.jsonl"))
    """Name of the file in the run folder, one JSON object a line: "NAME.jsonl"."""


@hookimpl
def llmx_loggers() -> list[Component]:
    return [
        Component(
            name="console",
            target="llmx_loggers.console:ConsoleLogger",
            options=ConsoleOptions,
            summary="a live view on a terminal, plain lines elsewhere",
        ),
        Component(
            name="jsonl",
            target="llmx_loggers.jsonl:JsonlLogger",
            options=JsonlOptions,
            summary="one JSON object for each step and evaluation, in the run folder",
        ),
        Component(
            name="swanlab",
            target="llmx_loggers.swanlab:SwanlabLogger",
            options=SwanlabOptions,
            summary="SwanLab, online or on disk (pip install 'llmx[swanlab]')",
        ),
        Component(
            name="tensorboard",
            target="llmx_loggers.tensorboard:TensorboardLogger",
            options=TensorboardOptions,
            summary="TensorBoard event files in the run folder (pip install 'llmx[tensorboard]')",
        ),
        Component(
            name="trackio",
            target="llmx_loggers.trackio:TrackioLogger",
            options=TrackioOptions,
            summary="Trackio, on disk or in a Hugging Face Space (pip install 'llmx[trackio]')",
        ),
        Component(
            name="wandb",
            target="llmx_loggers.wandb:WandbLogger",
            options=WandbOptions,
            summary="Weights & Biases, online or on disk (pip install 'llmx[wandb]')",
        ),
    ]
