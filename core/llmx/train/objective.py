"""The objective of a run: the recipe's or a hook's own, what its sum is divided by, and what else it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.errors import PluginError

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.protocols import Batch, Objective


def choose_objective(run: Run) -> Objective:
    """Return the objective that `llmx_objective` gives, or the recipe's; it has seen the model as it begins.

    Raises:
        PluginError: two listeners give one, it is none, or it needs data that was made otherwise.
    """
    given = run.hooks.ask("llmx_objective", run=run)
    if len(given) > 1:
        raise PluginError(f"llmx_objective: {' and '.join(who for who, _ in given)} each give one; leave one out")
    objective = run.objective
    for who, own in given:
        if not callable(own):
            raise PluginError(f"llmx_objective: {who}: gives a {type(own).__name__}, not a function (model, batch)")
        if getattr(own, "pairs", False) and not getattr(run.objective, "pairs", False):
            raise PluginError(
                f"llmx_objective: {who}: compares pairs, and the data was made for {run.recipe.objective.name}; "
                "name an objective of pairs in the recipe (dpo), in whose place yours is used"
            )
        objective = own
    if hasattr(objective, "prepare"):
        objective.prepare(run.model)
    return objective


def count_of(objective: Objective, batch: Batch) -> int:
    """Return what the objective's sum over a batch is divided by."""
    count: int = objective.count(batch) if hasattr(objective, "count") else batch.count
    return count


def take_figures(run: Run, prefix: str, count: float) -> dict[str, float]:
    """Return the means of what the objective measured since the last call, over all ranks and what they counted."""
    if not hasattr(run.objective, "metrics"):
        return {}
    sums = run.objective.metrics()
    return {f"{prefix}/{name}": float(run.world.sum(sums[name].to(run.device))) / count for name in sorted(sums)}
