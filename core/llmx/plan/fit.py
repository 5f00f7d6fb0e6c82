"""What to change of a recipe that does not fit a limit of memory: what costs least, first."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import attrs
from attrs import evolve, frozen

from llmx.plan.memory import Setting, plan_memory
from llmx.recipe import Part, Recipe
from llmx.registry import Registry

LEAST_LENGTH = 128
"""Shortest rows that are proposed."""

Change = tuple[str, Callable[[Recipe], Recipe]]


@frozen
class Advice:
    """What makes a run smaller.

    Attributes:
        overrides: what to give besides, in the order in which they were tried.
        peak: bytes that the run takes then.
        fits: whether that is within the limit.
    """

    overrides: tuple[str, ...]
    peak: int
    fits: bool


def advise(recipe: Recipe, setting: Setting, length: int, limit: int) -> Advice:
    """Return the first change after which a run takes no more than `limit` bytes, with those before it where it needs
    them; where none does, all of them and how far they get."""

    def peak(changes: list[Change]) -> int:
        changed = recipe
        for _, change in changes:
            changed = change(changed)
        now = changed.data.sequence_length or length
        rows = setting.rows * length // now  # shorter rows are more of them: the tokens of an update stay
        return plan_memory(changed, evolve(setting, rows=rows), now)[0].peak

    taken: list[Change] = []
    reached = peak([])
    for change in _changes(recipe, setting, length):
        taken = [each for each in taken if _key(each) != _key(change)] + [change]
        reached = peak(taken)
        if reached <= limit:
            alone = peak([change]) if len(taken) > 1 else reached
            if alone <= limit:
                taken, reached = [change], alone
            break
    return Advice(tuple(name for name, _ in taken), reached, reached <= limit)


def _key(change: Change) -> str:
    return change[0].partition("=")[0]


def _changes(recipe: Recipe, setting: Setting, length: int) -> Iterator[Change]:
    rows = min(recipe.train.micro_batch or setting.rows, setting.rows)
    for fewer in _fewer(rows, setting.rows):
        yield _train("micro_batch", fewer)
    if recipe.train.checkpointing != "block":
        yield _train("checkpointing", "block")
    if not recipe.adapters and recipe.train.weights != "bf16" and setting.precision == "bf16":
        yield _train("weights", "bf16")
    yield from _adapters(recipe)
    half = length // 2
    while half >= LEAST_LENGTH and 2 * half * setting.rows == length * setting.rows:
        yield f"data.sequence_length={half}", _shorter(half)
        length, half = half, half // 2


def _fewer(rows: int, of: int) -> list[int]:
    """Return smaller micro-batches to try: about a half, about a quarter, one row, where that is all there is too: it
    holds when rows become shorter."""
    divisors = [each for each in range(1, max(rows, 2)) if of % each == 0]
    wanted = {max((d for d in divisors if d <= rows / part), default=0) for part in (2, 4, rows)}
    return sorted(wanted - {0}, reverse=True)


def _train(name: str, value: int | str) -> Change:
    def change(recipe: Recipe) -> Recipe:
        return evolve(recipe, train=attrs.evolve(recipe.train, **{name: value}))  # type: ignore[arg-type]  # by name

    return f"train.{name}={value}", change


def _shorter(length: int) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        return evolve(recipe, data=attrs.evolve(recipe.data, sequence_length=length))

    return change


def _adapters(recipe: Recipe) -> Iterator[Change]:
    """Yield adapters that may be added: to weights that are there already, for of random ones nothing is learned."""
    names = [part.name.rpartition(":")[2] for part in recipe.adapters]
    if recipe.base is None or {"nf4", "int8"} & set(names):
        return
    steps = [] if names else [["lora"]]
    if importlib.util.find_spec("bitsandbytes") is not None:
        steps.append(["nf4", *(names or ["lora"])])
    for wanted in steps:
        yield f"adapter={','.join(wanted)}", _adapted(wanted)


def _adapted(names: list[str]) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        there = {part.name.rpartition(":")[2]: part for part in recipe.adapters}
        train = attrs.evolve(recipe.train, weights="auto")
        return evolve(recipe, train=train, adapters=tuple(there.get(name) or _part(name) for name in names))

    return change


def _part(name: str) -> Part:
    offer = Registry().find("adapter", f"llmx:{name}", "plan")
    return Part(name, offer, offer.component.options())
