"""Learning rates of the optimizer's parameter groups, by the run's schedule or by one of a group's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmx.errors import RecipeError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmx.assembly import Run
    from llmx.protocols import Schedule
    from llmx.recipe import Part, Recipe


def group_schedules(recipe: Recipe, optimizer: Optimizer, steps: int) -> dict[str, Schedule]:
    """Return the schedules of `scheduler.groups` by the names of the parameter groups they are for.

    A key names a group, or all whose names begin with it and a dash: `adamw` stands for `adamw-decay` and
    `adamw-embedding`. Of two keys that stand for a group the longer one counts.

    Raises:
        RecipeError: the optimizer has no such group, or a schedule does not fit the run.
    """
    names = [group["name"] for group in optimizer.param_groups if "name" in group]
    found: dict[str, Schedule] = {}
    faults: list[str] = []
    for key, part in sorted(recipe.scheduler_groups.items(), key=lambda item: len(item[0])):
        where = f"scheduler.groups.{key}"
        meant = [name for name in names if name == key or name.startswith(f"{key}-")]
        if not meant:
            origin = next((o for path, o in recipe.origins.items() if path.startswith(f"{where}.")), "recipe")
            there = f"it has {', '.join(names)}" if names else "none of its groups has a name"
            faults.append(f"{origin}: {where}: {recipe.optimizer.name} has no such parameter group: {there}")
            continue
        found |= dict.fromkeys(meant, _built(part, where, steps))
    if faults:
        raise RecipeError(*faults)
    return found


def _built(part: Part, where: str, steps: int) -> Schedule:
    try:
        schedule: Schedule = part.build(steps)
    except RecipeError as error:  # it speaks of `scheduler.warmup_steps`: say which scheduler's
        raise RecipeError(*(fault.replace("scheduler.", f"{where}.", 1) for fault in error.faults)) from error
    return schedule


def set_rates(run: Run) -> None:
    """Give every parameter group its rate for the update at hand: its peak times its schedule's factor."""
    for group in run.optimizer.param_groups:
        schedule = run.group_schedules.get(group.get("name", ""), run.schedule)
        group["lr"] = group["initial_lr"] * schedule(run.state.step)


def rates(run: Run) -> Mapping[str, Any]:
    """Return what metrics say of the rates: the first group's, and those of named groups that go another way."""
    first, *others = run.optimizer.param_groups
    own = run.group_schedules
    apart = [
        group
        for group in others
        if "name" in group
        and (group["initial_lr"] != first["initial_lr"] or own.get(group["name"]) is not own.get(first.get("name", "")))
    ]
    return {"lr": first["lr"], **{f"lr/{group['name']}": group["lr"] for group in apart}}
