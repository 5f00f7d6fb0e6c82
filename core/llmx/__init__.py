"""llmx: put a language-model run together from names; every part is a plugin.

    import llmx
    run = llmx.run("recipe.toml", optimizer="adamw", overrides={"train.steps": 200})
    model = llmx.load(run.folder)
    print(model.generate("Once upon a time"))

    trainer = llmx.Trainer("qwen3", ["a text", "another text"])  # in a notebook: from names and objects
    trainer.train(epochs=3)

Names are resolved on first use, so importing `llmx` imports neither torch nor a plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.api import load, run
    from llmx.component import Component, NoOptions
    from llmx.errors import (
        CheckpointError,
        DataError,
        DivergedError,
        LlmxError,
        PluginError,
        RecipeError,
        StoppedError,
    )
    from llmx.hookspecs import hookimpl
    from llmx.interactive.trainer import Trainer
    from llmx.recipe import Recipe
    from llmx.registry import Registry

__version__ = "0.1.0"

_HOMES = {
    "CheckpointError": "llmx.errors",
    "Component": "llmx.component",
    "DataError": "llmx.errors",
    "DivergedError": "llmx.errors",
    "LlmxError": "llmx.errors",
    "NoOptions": "llmx.component",
    "PluginError": "llmx.errors",
    "Recipe": "llmx.recipe",
    "RecipeError": "llmx.errors",
    "Registry": "llmx.registry",
    "StoppedError": "llmx.errors",
    "Trainer": "llmx.interactive.trainer",
    "hookimpl": "llmx.hookspecs",
    "load": "llmx.api",
    "run": "llmx.api",
}

__all__ = [
    "CheckpointError",
    "Component",
    "DataError",
    "DivergedError",
    "LlmxError",
    "NoOptions",
    "PluginError",
    "Recipe",
    "RecipeError",
    "Registry",
    "StoppedError",
    "Trainer",
    "hookimpl",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmx' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
