"""Tasks of lm-evaluation-harness on a model of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.errors import LlmxError, PluginError, RecipeError

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel


def run_tasks(
    loaded: LanguageModel,
    name: str | None,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the figures of each task, by their names.

    Args:
        name: of the adapter that answers; None is the model itself.
        include_path: a folder with tasks in YAML; what these call is run.
        limit: most questions of each task.
        shots: examples before each question; None leaves that to the task.
        chat: ask by the template that trained the model.

    Raises:
        PluginError: the extra is not installed.
        RecipeError: there is no such task, or the model was trained on plain text and is asked to chat.
        LlmxError: the data of a task cannot be read.
    """
    if chat:
        loaded.chat(())
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from llmx.evaluation.harness import HarnessModel
    except ImportError as error:
        raise PluginError("--tasks: needs the package 'lm_eval': pip install 'llmx[lm-eval]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    unknown = [each for each in tasks if not manager.match_tasks([each])]
    if unknown:
        raise RecipeError(
            f"--tasks {unknown[0]}: no such task; `lm_eval ls tasks` lists them, --include-path adds some"
        )
    try:
        found = lm_eval.simple_evaluate(
            model=HarnessModel(loaded, name, chat=chat),
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat,
            log_samples=False,
            bootstrap_iters=0,
        )
    except OSError as error:  # of the hub too
        raise LlmxError(f"--tasks: the data cannot be read: {str(error).splitlines()[0]}") from error
    assert found is not None
    return {task: _figures(values) for task, values in found["results"].items()}


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key.removesuffix(",none"): value for key, value in values.items() if isinstance(value, int | float)}
    return {key: value for key, value in kept.items() if "stderr" not in key or value == value}
