"""Recipes: layers over layers, names to parts, and where each value came from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from attrs import fields, resolve_types

from llmx import Recipe, RecipeError, Registry
from llmx.api import layers_of
from llmx.layers import DATA_KEYS, Layer, environment_layer, is_override, merge, override_layers
from llmx.sections import CORE_SECTIONS, DataOptions
from llmx.toml import dumps


def resolve(*values: dict[str, Any], **names: Any) -> Recipe:
    return Recipe.resolve([Layer(f"layer {i}", each) for i, each in enumerate(values)], **names)


def test_the_defaults_are_the_main_job() -> None:
    """Nothing given: TinyLLM on python-docs."""
    recipe = Recipe.resolve([])
    assert [part.name for _, part in recipe.parts][:7] == [
        "tinyllm",
        "sentencepiece",
        "chatml",
        "python-docs",
        "causal-lm",
        "adamw",
        "linear",
    ]
    assert not recipe.origins


def test_later_layers_win_and_are_remembered(tmp_path: Path) -> None:
    """Defaults < extends < recipe < variables < flags < overrides, and each value knows its place."""
    (tmp_path / "base.toml").write_text("[optimizer]\nlr = 1.0\neps = 1.0\nweight_decay = 1.0\n[train]\nsteps = 1\n")
    (tmp_path / "r.toml").write_text('extends = "base.toml"\n[optimizer]\nlr = 0.5\neps = 0.5\n')
    layers = layers_of(tmp_path / "r.toml", overrides=["optimizer.lr=0.125"], optimizer="adamw", logger=["jsonl"])
    recipe = Recipe.resolve(layers)
    assert (recipe.optimizer.options.lr, recipe.optimizer.options.eps) == (0.125, 0.5)
    assert (recipe.optimizer.options.weight_decay, recipe.train.steps) == (1.0, 1)
    assert recipe.origins["optimizer.lr"] == "optimizer.lr=0.125"
    assert recipe.origins["optimizer.eps"] == str(tmp_path / "r.toml")
    assert recipe.origins["optimizer.weight_decay"] == str(tmp_path / "base.toml")
    assert recipe.origins["logger.jsonl.name"] == "--logger"


def test_variables_override_the_recipe() -> None:
    """`LLMX_TRAIN__STEPS=7` is train.steps; llmx's own variables are none of the recipe's."""
    layer = environment_layer({"LLMX_TRAIN__STEPS": "7", "LLMX_CACHE": "/x", "LLMX_DISABLE_PLUGINS": "a"})
    assert layer.values == {"train": {"steps": 7}}
    assert Recipe.resolve([Layer("r", {"train": {"steps": 3}}), layer]).train.steps == 7


def test_another_part_drops_the_options_of_the_one_before() -> None:
    """`--optimizer adam` over a recipe with options of adamw starts from adam's defaults."""
    recipe = resolve({"optimizer": {"name": "adamw", "lr": 1.0}}, {"optimizer": "adam"})
    assert recipe.optimizer.options.lr != 1.0
    kept = resolve({"optimizer": {"name": "adamw", "lr": 1.0}}, {"optimizer": "adamw"})
    assert kept.optimizer.options.lr == 1.0


def test_lists_are_replaced_and_their_parts_addressed_by_name() -> None:
    """`sampler.top-p.p=0.5` changes a link of the chain, the default one too; a new list keeps what stays."""
    recipe = resolve({"sampler": {"top-p": {"p": 0.5}}}, {"sampler": ["top-p", "greedy"]})
    assert [part.name for part in recipe.samplers] == ["top-p", "greedy"]
    assert recipe.samplers[0].options.p == 0.5
    with pytest.raises(RecipeError, match=r"sampler\.min-p: not in the list"):
        resolve({"sampler": {"min-p": {"p": 0.5}}})


def test_every_fault_is_reported_with_its_place() -> None:
    """Unknown parts, sections, options and wrong types come together, one line each."""
    with pytest.raises(RecipeError) as caught:
        resolve({"optimizer": {"name": "adamv"}, "train": {"steps": 1.5, "sed": 1}, "tokeniser": "char", "steps": 3})
    text = str(caught.value)
    assert "layer 0: optimizer.name = 'adamv': no such optimizer; nearest: adam, adamw" in text
    assert "layer 0: train.steps: must be int, not 1.5 (float)" in text
    assert "layer 0: train.sed = 1: no such option; nearest: seed, steps" in text
    assert "layer 0: tokeniser: no such section; nearest: tokenizer" in text
    assert "layer 0: steps: no such section; nearest: train.steps" in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("name", "meant"), [("temperature", "temperature.temperature"), ("k", "top-k.k"), ("top_k", "top-k.k")]
)
def test_an_option_of_a_sampler_is_told_with_its_section(name: str, meant: str) -> None:
    """By the option's name and by the sampler's, once where both are the same; what is told is taken."""
    with pytest.raises(RecipeError) as caught:
        resolve({name: 2})
    assert str(caught.value) == f"layer 0: {name}: no such section; nearest: sampler.{meant}"
    link, option = meant.split(".")
    (part,) = resolve({"sampler": [link]}, {"sampler": {link: {option: 2}}}).samplers
    assert getattr(part.options, option) == 2


def test_a_name_of_another_kind_is_told() -> None:
    """`--optimizer cosine` says that cosine is a scheduler."""
    with pytest.raises(RecipeError, match="'cosine' is a scheduler"):
        resolve({"optimizer": "cosine"})


def test_the_dataset_is_chosen_by_the_path() -> None:
    """`data.path` alone picks the reader of its ending; an unknown ending says what to set. The file names the corpus,
    and the reader where a pattern names no file."""

    def found(**data: Any) -> tuple[str, str]:
        recipe = resolve({"data": data})
        return recipe.sources[0].part.name, recipe.corpus

    assert found(path="x/y.jsonl") == ("jsonl", "y")
    assert found(path="x/*.parquet") == ("parquet", "parquet")
    assert found(path="x/y", name="text") == ("text", "y")
    assert found(path="x/y.jsonl.gz") == ("jsonl", "y")
    assert found(path=["x/y.csv", "x/z.csv"]) == ("csv", "y")


def test_several_sources_are_told_apart() -> None:
    """Each has its own dataset, options and weight; a later single corpus takes their place, and the other way."""
    sources = [{"path": "a.txt", "weight": 0.7}, {"path": "b/a.jsonl", "limit": 3}, {"name": "python-docs"}]
    layer = Layer("r.toml", {"data": {"held_out": 0.1, "sources": sources}})
    recipe = Recipe.resolve([layer])
    found = [(source.label, source.weight, source.part.name) for source in recipe.sources]
    assert found == [("a", 0.7, "text"), ("a-2", 1.0, "jsonl"), ("python-docs", 1.0, "python-docs")]
    assert recipe.data.held_out == 0.1
    assert Recipe.resolve([Layer("again", recipe.to_plain())]).to_plain() == recipe.to_plain()
    assert Recipe.resolve([layer, Layer("flag", {"data": {"path": "c.csv"}})]).corpus == "c"
    assert Recipe.resolve([Layer("one", {"data": {"path": "c.csv"}}), layer]).corpus == "a+a-2+python-docs"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sources": []}, "data.sources must be a list of tables"),
        ({"sources": [{"path": "a.txt", "weight": 0}]}, r"data\.sources\[0\]\.weight"),
        ({"sources": [{"path": "a.txt"}], "path": "b.txt"}, "data.sources and data.path are given: keep one of them"),
        ({"sources": [{"path": "a.txt", "colour": 1}]}, r"data\.sources\[0\]\.colour = 1: no such option"),
        ({"sources": [{"path": "a.txt", "weigth": 1}]}, r"weigth = 1: no such option; nearest: weight"),
        ({"loss_on": ["asistant"]}, r"data\.loss_on = .*: no such role 'asistant'; nearest: assistant$"),
        ({"loss_on": ["wizard"]}, r"no such role 'wizard'; nearest: user, assistant, system, tool"),
        ({"pth": "x.txt"}, r"data\.pth = 'x\.txt': no such option; nearest: path"),
        ({"pakcing": "none"}, r"no such option; nearest: packing"),
        ({"sources": [{"path": "a.xyz"}]}, "no dataset is chosen by this ending"),
    ],
)
def test_wrong_sources_are_told(data: dict[str, object], message: str) -> None:
    """With their place in the list."""
    with pytest.raises(RecipeError, match=message):
        Recipe.resolve([Layer("r.toml", {"data": data})])
    with pytest.raises(RecipeError, match=r"data\.path = 'x/y\.docx': no dataset is chosen .*set data\.name"):
        resolve({"data": {"path": "x/y.docx"}})


def test_every_path_of_a_list_chooses_the_dataset() -> None:
    """JSON is never read as plain text because a text stands before it; a folder goes with what the others are."""
    mixed = ["a.txt", "b.md", "c.jsonl.gz"]
    for data in ({"path": mixed}, {"sources": [{"path": mixed}]}):
        with pytest.raises(
            RecipeError, match=r"several datasets, text \(a\.txt\) and jsonl \(c\.jsonl\.gz\): .*data\.sources"
        ):
            resolve({"data": data})
    with pytest.raises(RecipeError, match=r"ends in what jsonl reads, but data\.name = 'text'"):
        resolve({"data": {"name": "text", "path": "a.txt"}}, {"data": {"path": mixed}})
    assert resolve({"data": {"path": mixed, "name": "text"}}).sources[0].part.name == "text"
    assert resolve({"data": {"path": ["folder", "c.jsonl", "d.ndjson"]}}).sources[0].part.name == "jsonl"


def test_a_folder_is_read_by_what_is_in_it(tmp_path: Path) -> None:
    """By the one dataset that reads its files, those below and none that is hidden; else a line says what it is."""
    layer = Layer(f"data.path={tmp_path}", {"data": {"path": str(tmp_path)}})

    def fault() -> str:
        with pytest.raises(RecipeError) as caught:
            Recipe.resolve([layer])
        assert str(caught.value).count("data.path=") == 1
        assert "data.path = " not in str(caught.value)
        return str(caught.value)

    assert f"data.path={tmp_path}: is an empty folder; set data.name" in fault()
    (tmp_path / "notes.docx").touch()
    (tmp_path / ".hidden.csv").touch()
    assert "is a folder, and no file in it has an ending that chooses a dataset" in fault()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.jsonl").touch()
    recipe = Recipe.resolve([layer])
    assert (recipe.sources[0].part.name, recipe.sources[0].label) == ("jsonl", tmp_path.name)
    (tmp_path / "b.txt").touch()
    assert re.search(r"text \(.*b\.txt\) and jsonl \(.*a\.jsonl\): give each its own .*set data\.name", fault())
    assert Recipe.resolve([layer, Layer("flag", {"data": {"name": "text"}})]).sources[0].part.name == "text"


def test_a_resolved_recipe_reads_back_equal() -> None:
    """The recipe.toml of a run is the whole recipe."""
    recipe = resolve(
        {"train": {"epochs": 1.5}, "sampler": ["greedy"], "generate": {"prompts": ['a"b\n\\', "汉字"]}, "callback": []}
    )
    again = resolve(tomllib.loads(dumps(recipe.to_plain())))
    assert again == recipe


def test_yaml_and_json_recipes_read_as_toml_does(tmp_path: Path) -> None:
    """One recipe in three forms; `3e-4` in YAML is a number, as in YAML 1.2."""
    forms = {
        "r.toml": "[optimizer]\nlr = 3e-4\n",
        "r.yaml": "optimizer:\n  lr: 3e-4\n",
        "r.json": '{"optimizer": {"lr": 3e-4}}',
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert Recipe.resolve(layers_of(tmp_path / name)).optimizer.options.lr == 3e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\n", r"r\.toml: does not parse"),
        ('extends = "r.toml"\n', r"r\.toml: extends itself"),
        ('extends = "no.toml"\n', r"no\.toml: no such recipe file"),
        ("extends = 3\n", r"extends must be a path"),
        ("train = 3\n", r"r\.toml: train must be a table"),
        ("optimizer = 3\n", r"r\.toml: optimizer must be a name or a table"),
        ("logger = 3\n", r"r\.toml: logger must be a list"),
        ("adapter = ['nf4']\n[adapter.nf4]\nskip = []\n", r'twice .*: write \[\[adapter\]\] with name = "nf4"'),
        ("[adapter.nf4]\nskip = []\n", r'not in the list .* in a file as \[\[adapter\]\] with name = "nf4"'),
        ("[[logger]]\nfile = 'x'\n", r"logger: every entry needs a name"),
        ("hooks = 'x.py'\n", r"hooks must be a list"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong with a recipe file names the file."""
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.resolve(layers_of(tmp_path / "r.toml"))
    assert len(str(caught.value).splitlines()) == 1


def test_overrides_are_told_from_paths() -> None:
    """`key=value` is an override; a path is none, with `=` in it either."""
    assert is_override("train.steps=200")
    assert is_override("sampler.top-p.p=0.9")
    assert is_override("model=tinyllm")
    assert not is_override("runs/a=b.toml")
    assert not is_override("recipe.toml")


def test_override_values_read_as_toml_or_else_as_text() -> None:
    """Numbers, lists and bools are typed; what is no TOML is a string."""
    values = [layer.values for layer in override_layers(["a.b=3e-4", "a.c=[1, 2]", "a.d=x/y.txt", "logger=a,b"])]
    dates = ["template.date=2024-01-01", "a.time=12:30:00"]
    found = [layer.values for layer in override_layers(dates)]
    assert found == [{"template": {"date": "2024-01-01"}}, {"a": {"time": "12:30:00"}}]  # a shell took the quotes off
    assert values == [{"a": {"b": 3e-4}}, {"a": {"c": [1, 2]}}, {"a": {"d": "x/y.txt"}}, {"logger": ["a", "b"]}]


def test_steps_and_epochs_replace_each_other() -> None:
    """The later of the two counts; both at once is a fault."""
    assert resolve({"train": {"epochs": 2.0}}, {"train": {"steps": 7}}).train.epochs is None
    assert resolve({"train": {"steps": 7}}, {"train": {"epochs": 2.0}}).train.epochs == 2.0
    with pytest.raises(RecipeError, match=r"train\.steps and train\.epochs are given"):
        resolve({"train": {"epochs": 2.0, "steps": 7}})


def test_the_datas_own_keys_outlive_its_reader() -> None:
    """`data.name=json` over a recipe for jsonl keeps held_out; a path for another reader must bring its name."""
    recipe = resolve(
        {"data": {"name": "jsonl", "path": "a.jsonl", "held_out": 0.5}}, {"data": {"name": "json", "path": "b"}}
    )
    assert (recipe.data.held_out, recipe.sources[0].part.name) == (0.5, "json")
    with pytest.raises(RecipeError, match=r"ends in what jsonl reads, but data\.name = 'text' \(layer 0\)"):
        resolve({"data": {"name": "text", "path": "a.txt"}}, {"data": {"path": "b.jsonl"}})
    forced = Recipe.resolve(override_layers(["data.path=a.txt", "data.name=jsonl"]))
    assert forced.sources[0].part.name == "jsonl"
    assert tuple(each.name for each in fields(DataOptions)) == DATA_KEYS


def test_no_value_is_lost_for_want_of_a_null() -> None:
    """TOML cannot say None, so no option may need it: one that can be None is None by default."""
    classes = [offer.component.options for offer in Registry().offers()] + [*CORE_SECTIONS.values(), DataOptions]
    for cls in classes:
        resolve_types(cls)
        for each in fields(cls):
            assert type(None) not in get_args(each.type) or each.default is None, (cls, each.name)
    clipless = resolve({"train": {"clip_norm": float("inf")}})
    assert resolve(tomllib.loads(dumps(clipless.to_plain()))) == clipless


def test_a_part_is_listed_once() -> None:
    """Two loggers of one name would write over each other."""
    with pytest.raises(RecipeError, match="logger = 'jsonl' is listed twice"):
        resolve({"logger": ["jsonl", "jsonl"]})


def test_a_variable_with_one_underscore_is_told() -> None:
    """`LLMX_TRAIN_STEPS` would otherwise be ignored without a word."""
    with pytest.raises(RecipeError, match="LLMX_TRAIN_STEPS: write LLMX_TRAIN__STEPS"):
        environment_layer({"LLMX_TRAIN_STEPS": "3"})


def test_a_section_and_its_option_cannot_both_be_set() -> None:
    """`train=5 train.steps=3` is a fault of its own, not a crash."""
    with pytest.raises(RecipeError, match="train = 5: must be a table"):
        Recipe.resolve(override_layers(["train=5", "train.steps=3"]))


def test_merge_leaves_its_layers_alone() -> None:
    """Resolving twice gives the same."""
    layers = [Layer("a", {"train": {"steps": 1}}), Layer("b", {"train": {"seed": 2}})]
    assert merge(layers) == merge(layers)
    assert layers[0].values == {"train": {"steps": 1}}
