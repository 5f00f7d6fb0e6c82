"""Tasks of lm-evaluation-harness on a model of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from llmx.errors import LlmxError, PluginError, RecipeError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from llmx.evaluation.harness import HarnessModel
    from llmx.generate.language_model import LanguageModel


def run_tasks(
    loaded: LanguageModel,
    name: str | None,
    tasks: Sequence[str],
    *,
    say: Callable[[str], None],
    include_path: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the figures of each task, by their names.

    Args:
        name: of the adapter that answers; None is the model itself.
        say: told of files in YAML that are broken, a line each.
        include_path: a folder with tasks in YAML; what these call is run.
        limit: most questions of each task.
        shots: examples before each question; None leaves that to the task.
        chat: ask by the template that trained the model.

    Raises:
        PluginError: the extra is not installed.
        RecipeError: there is no such task, or the model was trained on plain text and is asked to chat.
        LlmxError: the data of a task cannot be read, or the harness fails at it.
    """
    if chat:
        loaded.chat(())
    try:
        from lm_eval.tasks import TaskManager

        from llmx.evaluation.harness import HarnessModel
    except ImportError as error:
        raise PluginError("--tasks: needs the package 'lm_eval': pip install 'llmx[lm-eval]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with _told(say):
        manager = TaskManager(include_path=None if include_path is None else str(include_path))
    names = _known(tasks, manager)
    model = HarnessModel(loaded, name, chat=chat)
    found: dict[str, dict[str, Any]] = {}
    for task in names:
        results = _run(task, model, num_fewshot=shots, limit=limit, task_manager=manager, apply_chat_template=chat)
        found |= {each: _figures(values) for each, values in results.items()}
    return found


def names_of(given: str, include_path: Path | None = None) -> list[str]:
    """Return the tasks of `--tasks`.

    Raises:
        RecipeError: there are none, or no folder with more of them.
    """
    names = [name for each in given.split(",") if (name := each.strip())]
    if not names:
        raise RecipeError("--tasks: names no task: write --tasks NAME,NAME; `lm_eval ls tasks` lists them")
    if include_path is not None and not include_path.is_dir():
        raise RecipeError(f"--include-path {include_path}: no such folder: give one with tasks in YAML")
    return names


def _known(tasks: Sequence[str], manager: TaskManager) -> list[str]:
    """Return the names that tasks stand for, which may have stars."""
    found: list[str] = []
    for each in tasks:
        names = [each] if each in manager.all_tasks else manager.match_tasks([each])
        if not names:
            raise RecipeError(f"--tasks {each}: no such task; `lm_eval ls tasks` lists them, --include-path adds some")
        found += names
    return list(dict.fromkeys(found))


def _run(task: str, model: HarnessModel, **options: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return what the harness finds of one task or group; alone, so that a fault is known to be of it."""
    from lm_eval import evaluator

    # neither is used: one asks git, which complains where there is no repository, the other looks for seconds
    unused = mock.patch.multiple(evaluator, get_git_commit_hash=lambda: None, add_env_info=lambda _: None)
    try:
        with unused:
            found = evaluator.simple_evaluate(
                model=model, tasks=[task], log_samples=False, bootstrap_iters=0, **options
            )
    except LlmxError:
        raise
    except OSError as error:  # of the hub too
        raise LlmxError(f"--tasks {task}: the data cannot be read: {_first_line(error)}") from error
    except Exception as error:  # a task is anyone's YAML and code
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise LlmxError(f"--tasks {task}: lm-eval stopped: {reason} (llmx --debug eval shows where)") from error
    results: Mapping[str, Mapping[str, Any]] = found["results"]
    return results


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "it does not say why")


class _Skipped(logging.Handler):
    """Tells of files that hold no task because they are broken; the harness says so to those who debug it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.DEBUG)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        # what is only included by others has none of a task's keys, and is no fault
        if str(record.msg).startswith("Skip") and "Unknown config shape" not in str(args[-1]):
            self.say(f"{args[0]}: is no task: {' '.join(str(args[-1]).split())}")


@contextmanager
def _told(say: Callable[[str], None]) -> Iterator[None]:
    """Tell of broken files while the harness looks for tasks."""
    logger, handler = logging.getLogger("lm_eval.tasks._index"), _Skipped(say)
    level, above = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = above


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key.removesuffix(",none"): value for key, value in values.items() if isinstance(value, int | float)}
    return {key: value for key, value in kept.items() if "stderr" not in key or value == value}
