"""Schedules of parameter groups: from the recipe to the rate of every update."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import llmx
from llmx import Recipe, RecipeError
from llmx.api import layers_of
from llmx.layers import Layer, file_layers
from llmx.toml import dumps


def resolve(*values: dict[str, Any]) -> Recipe:
    return Recipe.resolve([Layer(f"layer {i}", each) for i, each in enumerate(values)])


def schedulers(recipe: Recipe) -> dict[str, tuple[str, Any]]:
    return {group: (part.name, part.options) for group, part in recipe.scheduler_groups.items()}


def test_each_group_goes_by_its_own_schedule(small: list[str], tmp_path: Path) -> None:
    """Every row has the rates of the groups that go another way; a longer key counts before the one it begins with."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[optimizer]\nname = "muon"\nadamw_lr = 0.25\n[scheduler]\nname = "linear"\nwarmup_steps = 0\n'
        '[scheduler.groups.adamw]\nname = "constant"\nwarmup_steps = 0\n'
        "[scheduler.groups.adamw-embedding]\nwarmup_steps = 2\nfinal_ratio = 0.5\n"
    )
    llmx.run(recipe, overrides=[*small, "train.steps=4"], tokenizer="char", logger=["jsonl"], out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [{key: value for key, value in row.items() if key.startswith("lr")} for row in rows if "lr" in row]
    assert [rate.pop("lr") for rate in rates] == pytest.approx([5e-3, 3.75e-3, 2.5e-3, 1.25e-3])
    assert [rate.pop("lr/adamw-no_decay") for rate in rates] == [0.25] * 4
    assert [rate.pop("lr/adamw-embedding") for rate in rates] == pytest.approx([0.125, 0.25, 0.25, 0.1875])
    assert rates == [{}] * 4
    resumed = Recipe.resolve(file_layers(tmp_path / "run" / "recipe.toml"))
    assert {group: name for group, (name, _) in schedulers(resumed).items()} == {
        "adamw": "constant",
        "adamw-embedding": "linear",
    }


def test_a_schedule_is_not_lost_on_the_way_to_the_run(small: list[str], tmp_path: Path) -> None:
    """A group whose schedule is the run's own, but longer warmed up, trains other weights than without it."""
    losses = []
    for number, more in enumerate(([], ["scheduler.groups.embedding.warmup_steps=4"])):
        folder = tmp_path / str(number)
        llmx.run(overrides=[*small, "train.steps=4", *more], tokenizer="char", logger=["jsonl"], out=folder)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert losses[0][0] == losses[1][0]
    assert losses[0][3] != losses[1][3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["scheduler.groups.adamw.name=constant"],
            r"^scheduler\.groups\.adamw\.name=constant: scheduler\.groups\.adamw: adamw has no such parameter group: "
            r"it has decay, embedding, no_decay$",
        ),
        (["scheduler.groups.decay=constnt"], r"scheduler\.groups\.decay\.name = 'constnt': no such scheduler; nearest"),
        (["scheduler.groups.decay.steps=3"], r"scheduler\.groups\.decay\.steps = 3: no such option"),
        (["scheduler.groups=constant"], r"scheduler\.groups must be a table: write scheduler\.groups\.GROUP = NAME$"),
        (["scheduler.groups.decay=3"], r"scheduler\.groups\.decay must be a name or a table, not 3$"),
        (["scheduler.groups.decay.warmup_steps=99"], r"^scheduler\.groups\.decay\.warmup_steps = 99: longer than the"),
    ],
)
def test_what_fits_no_group_is_said(small: list[str], tmp_path: Path, overrides: list[str], message: str) -> None:
    """One line with the place, the key and what there is, before anything is written; a dry run says the same."""
    with pytest.raises(RecipeError, match=message):
        llmx.run(overrides=[*small, *overrides, "model.tied=false"], tokenizer="char", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    from llmx.plan import make_plan

    with pytest.raises(RecipeError, match=message):
        make_plan(Recipe.resolve(layers_of(None, overrides=[*small, *overrides, "model.tied=false"], tokenizer="char")))


def test_later_layers_are_laid_over_earlier_ones() -> None:
    """A group keeps its options when one more is given, loses them with its name, and outlives the section's name."""
    first = {"scheduler": {"groups": {"decay": {"name": "cosine", "warmup_steps": 3}, "embedding": "constant"}}}
    more = resolve(first, {"scheduler": {"groups": {"decay": {"final_ratio": 0.5}}}})
    assert schedulers(more)["decay"][1].warmup_steps == 3
    assert schedulers(more)["decay"][1].final_ratio == 0.5
    assert more.origins["scheduler.groups.decay.warmup_steps"] == "layer 0"
    assert more.origins["scheduler.groups.decay.final_ratio"] == "layer 1"
    other = resolve(first, {"scheduler": {"groups": {"decay": "wsd"}}})
    assert schedulers(other)["decay"][1].warmup_steps is None
    renamed = resolve(first, {"scheduler": {"name": "wsd", "decay_ratio": 0.5}})
    assert renamed.scheduler.name == "wsd"
    assert schedulers(renamed) == schedulers(resolve(first))


def test_a_recipe_with_groups_reads_back_equal() -> None:
    """As a run folder keeps it; the plugins of groups' schedulers are among the run's parts."""
    recipe = resolve({"scheduler": {"groups": {"decay": {"name": "wsd", "decay_ratio": 0.5}, "no_decay": "constant"}}})
    again = resolve(tomllib.loads(dumps(recipe.to_plain())))
    assert again.to_plain() == recipe.to_plain()
    assert schedulers(again) == schedulers(recipe)
    assert dict(recipe.parts)["scheduler.groups.decay"].name == "wsd"


def test_options_that_are_tables_are_laid_over_each_other() -> None:
    """`optimizer.options.…` twice is two options, not the last one alone."""
    options = {"optimizer": {"name": "torch-optim", "algorithm": "SGD", "options": {"momentum": 0.9, "nesterov": True}}}
    recipe = resolve(options, {"optimizer": {"options": {"momentum": 0.5}}})
    assert recipe.optimizer.options.options == {"momentum": 0.5, "nesterov": True}
    assert resolve(tomllib.loads(dumps(recipe.to_plain()))).to_plain() == recipe.to_plain()
