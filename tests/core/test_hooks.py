"""Every announcement of a run: when it fires and on which ranks, what may be changed, what an exception does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llmx
from llmx import LlmxError, PluginError, RecipeError, hookspecs
from llmx.assembly import Run
from llmx.component import KINDS
from llmx.train.hooks import load_hooks_file

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

EVENTS = {
    name: list(inspect.signature(each).parameters)
    for name, each in vars(hookspecs).items()
    if hasattr(each, "llmx_spec") and name not in {f"llmx_{kind}s" for kind in KINDS}
}


def hooks_file(folder: Path, body: str) -> str:
    path = folder / "my_hooks.py"
    path.write_text("import torch\nfrom llmx import hookimpl\n" + textwrap.dedent(body))
    return str(path)


def run(small: list[str], out: Path, hooks: str | None, *overrides: str, **given: Any) -> Run:
    return llmx.run(
        overrides=[*small, "train.steps=4", "eval.every=2", "checkpoint.every=2", *overrides],
        tokenizer="char",
        logger=["jsonl"],
        out=out,
        hooks=[hooks] if hooks else [],
        **given,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """The run that no hook touches."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(small, folder, None)
    return folder


def equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def rows(folder: Path, key: str) -> list[Any]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in found if key in row]


def test_events_come_in_their_order(small: list[str], tmp_path: Path) -> None:
    """With the step that is done, and the files that are there, at each."""
    body = ""
    for event, arguments in EVENTS.items():
        body += (
            f"@hookimpl\ndef {event}({', '.join(arguments)}):\n"
            f"    have = [p for p in ('checkpoints', 'model') if (run.folder / p).exists()]\n"
            f"    with open({str(tmp_path / 'log')!r}, 'a') as log:\n"
            f"        print('{event[5:]}', run.state.step, *have, file=log)\n"
        )
    run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert (tmp_path / "log").read_text().splitlines() == [
        "objective 0",
        "before_run 0",
        "before_step 0",
        "before_update 0",
        "after_step 1",
        "before_step 1",
        "before_update 1",
        "after_step 2",
        "before_eval 2",
        "after_eval 2",
        "after_checkpoint 2 checkpoints",
        "before_step 2 checkpoints",
        "before_update 2 checkpoints",
        "after_step 3 checkpoints",
        "before_step 3 checkpoints",
        "before_update 3 checkpoints",
        "after_step 4 checkpoints",
        "before_eval 4 checkpoints",
        "after_eval 4 checkpoints",
        "after_checkpoint 4 checkpoints",
        "before_export 4 checkpoints",
        "after_export 4 checkpoints model",
        "after_run 4 checkpoints model",
    ]


def test_events_fire_on_the_ranks_of_their_contract(small: list[str], tmp_path: Path) -> None:
    """All ranks hear all, but what writes files is announced on rank 0 alone."""
    body = ""
    for event, arguments in EVENTS.items():
        body += (
            f"@hookimpl\ndef {event}({', '.join(arguments)}):\n"
            f"    with open({str(tmp_path)!r} + f'/{{run.world.rank}}', 'a') as log:\n"
            f"        print('{event}', file=log)\n"
        )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "llmx", "run"]
    given = ["train.steps=2", "--tokenizer", "char", "--hooks", hooks_file(tmp_path, body), "--out", tmp_path / "r"]
    subprocess.run([*launch, *small, *map(str, given)], check=True, capture_output=True, timeout=240)
    heard = [set((tmp_path / str(rank)).read_text().split()) for rank in (0, 1)]
    main_only = {"llmx_after_checkpoint", "llmx_before_export", "llmx_after_export"}
    assert heard[0] == EVENTS.keys() - {"llmx_run_failed"}
    assert heard[1] == heard[0] - main_only
    for name in main_only:
        assert "rank 0" in (inspect.getdoc(getattr(hookspecs, name)) or "")


@pytest.mark.parametrize("event", EVENTS)
def test_a_fault_in_a_hook_names_its_place(small: list[str], tmp_path: Path, event: str) -> None:
    """Hook, file and line; the run ends, and says so to whoever listens."""
    body = f"@hookimpl\ndef {event}(run):\n    1 / 0\n"
    if event == "llmx_run_failed":
        body += "@hookimpl\ndef llmx_before_step(run):\n    raise ValueError('the first')\n"
    with pytest.raises(LlmxError) as failed:
        run(small, tmp_path / "r", hooks_file(tmp_path, body))
    text = str(failed.value) + "".join(getattr(failed.value, "__notes__", []))
    assert f"{event}: {tmp_path / 'my_hooks.py'}:5: ZeroDivisionError: division by zero" in text
    if event == "llmx_run_failed":
        assert "ValueError: the first" in str(failed.value)  # the second fault is a note beside it


def test_the_place_of_a_fault_is_the_hooks_own(small: list[str], tmp_path: Path) -> None:
    """And not that of the library it called."""
    body = (
        "import json\n@hookimpl\ndef llmx_before_run(run):\n    helper('x')\ndef helper(text):\n    json.loads(text)\n"
    )
    with pytest.raises(LlmxError, match=r"llmx_before_run: .*my_hooks\.py:8: JSONDecodeError"):
        run(small, tmp_path / "r", hooks_file(tmp_path, body))


def test_a_run_that_fails_announces_that_alone(small: list[str], tmp_path: Path) -> None:
    """`llmx_run_failed` comes once with the error, in place of `llmx_after_run`."""
    body = f"""
        @hookimpl
        def llmx_after_step(run):
            if run.state.step == 2:
                raise KeyError("planted")
        @hookimpl
        def llmx_run_failed(run, error):
            with open({str(tmp_path / "log")!r}, "a") as log: log.write(f"failed at {{run.state.step}}: {{error}}")
        @hookimpl
        def llmx_after_run(run):
            with open({str(tmp_path / "log")!r}, "a") as log: log.write("done")
    """
    with pytest.raises(LlmxError):
        run(small, tmp_path / "r", hooks_file(tmp_path, body))
    log = (tmp_path / "log").read_text()
    assert log.startswith("failed at 2: llmx_after_step: ")
    assert log.count("failed") == 1
    assert "done" not in log


@pytest.mark.parametrize("main", [True, False])
def test_the_cookbooks_hooks_print_once(main: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """On the main process of a run alone."""
    hooks: Any = load_hooks_file(Path(__file__).parents[2] / "cookbook" / "write-hooks" / "my_hooks.py")
    stand_in = SimpleNamespace(
        world=SimpleNamespace(main=main),
        state=SimpleNamespace(step=3),
        prompts=lambda: ["The ", "A "],
        generate=lambda *_, **__: "end",
    )
    hooks.llmx_after_eval(stand_in, {})
    assert capsys.readouterr().out == ("step 3: The end\n" if main else "")


# --- what may be changed --------------------------------------------------------------------------------------------


def test_before_run_may_change_the_run(small: list[str], tmp_path: Path) -> None:
    """A schedule of one's own, say."""
    body = "@hookimpl\ndef llmx_before_run(run):\n    run.schedule = lambda step: 0.25\n"
    run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert rows(tmp_path / "r", "lr") == [pytest.approx(0.25 * 5e-3)] * 4


def test_before_step_may_change_the_rate(small: list[str], tmp_path: Path, plain: Path) -> None:
    """After the schedule has set it and before the update uses it."""
    body = """
        @hookimpl
        def llmx_before_step(run):
            for group in run.optimizer.param_groups: group["lr"] = 1e-3 * (run.state.step + 1)
    """
    run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert rows(tmp_path / "r", "lr") == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3])
    assert not equal(tmp_path / "r", plain)


def test_before_update_may_change_gradients(small: list[str], tmp_path: Path) -> None:
    """They are complete and clipped; without them nothing moves."""
    body = """
        @hookimpl
        def llmx_before_update(run):
            norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in run.parameters()]))
            assert float(norm) <= run.recipe.train.clip_norm * 1.001
            for p in run.parameters(): p.grad.zero_()
    """
    still = ["optimizer.weight_decay=0", "train.clip_norm=0.5"]
    run(small, tmp_path / "r", hooks_file(tmp_path, body), *still)
    first = rows(tmp_path / "r", "val/loss")
    assert first[0] == first[1]
    assert all(norm > 0.5 for norm in rows(tmp_path / "r", "grad_norm"))  # as it was before clipping


def test_what_after_step_adds_is_logged(small: list[str], tmp_path: Path) -> None:
    """A hooks file hears it before the loggers do."""
    body = """
        @hookimpl
        def llmx_after_step(run, metrics):
            metrics["mine/twice"] = 2 * metrics["train/loss"]
    """
    run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert rows(tmp_path / "r", "mine/twice") == [2 * loss for loss in rows(tmp_path / "r", "train/loss")]


SWAP = """
    kept = {{}}
    @hookimpl
    def llmx_before_{what}(run):
        kept.update({{name: p.detach().clone() for name, p in run.module.named_parameters()}})
        with torch.no_grad():
            for p in run.parameters(): p.zero_()
    @hookimpl
    def llmx_after_{what}(run):
        with torch.no_grad():
            for name, p in run.module.named_parameters(): p.copy_(kept[name])
"""


def test_weights_may_be_exchanged_for_an_evaluation(small: list[str], tmp_path: Path, plain: Path) -> None:
    """The measured ones are others, the trained ones the same."""
    run(small, tmp_path / "r", hooks_file(tmp_path, SWAP.format(what="eval")))
    assert len(set(rows(tmp_path / "r", "val/loss"))) == 1  # zeros know nothing, twice
    assert equal(tmp_path / "r", plain)


def test_weights_may_be_exchanged_for_the_export(small: list[str], tmp_path: Path, plain: Path) -> None:
    """`model/` holds the exchanged ones, and the run goes on as if it had not been."""
    done = run(small, tmp_path / "r", hooks_file(tmp_path, SWAP.format(what="export")))
    assert not any(weight.any() for weight in weights(tmp_path / "r").values())
    assert torch.equal(done.weights()["model.embed_tokens.weight"], weights(plain)["model.embed_tokens.weight"])


def test_the_best_step_is_exported_with_the_state_of_its_listeners(small: list[str], tmp_path: Path) -> None:
    """A callback that averages exports what it had at the best step, and ends with what it has at the last."""
    body = f"""
        seen = {{"steps": 0}}
        def state_dict(): return dict(seen)
        def load_state_dict(state): seen.update(state)
        @hookimpl
        def llmx_after_step(run, metrics): seen["steps"] += 1
        @hookimpl
        def llmx_after_eval(run, metrics):
            if run.state.step == 4: run.state.best_step = 2
        @hookimpl
        def llmx_before_export(run):
            with open({str(tmp_path / "log")!r}, "a") as log: print("export", seen["steps"], file=log)
        @hookimpl
        def llmx_after_run(run):
            with open({str(tmp_path / "log")!r}, "a") as log: print("end", seen["steps"], file=log)
    """
    done = run(small, tmp_path / "r", hooks_file(tmp_path, body), "checkpoint.export=best")
    assert (tmp_path / "log").read_text().split() == ["export", "2", "end", "4"]
    best = load_file(tmp_path / "r" / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(weight, best[name]) for name, weight in weights(tmp_path / "r").items())
    assert not torch.equal(done.weights()["model.embed_tokens.weight"], best["model.embed_tokens.weight"])


def test_a_checkpoint_is_whole_when_it_is_announced(small: list[str], tmp_path: Path) -> None:
    """Its manifest holds, and its name is that of the step."""
    body = """
        from llmx.train.checkpoint import is_whole
        @hookimpl
        def llmx_after_checkpoint(run, path):
            assert is_whole(path)
            assert path.name == f"step-{run.state.step:08}"
            (run.folder / "announced").touch()
    """
    run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert (tmp_path / "r" / "announced").exists()


@pytest.mark.parametrize("event", ["llmx_after_step", "llmx_after_eval", "llmx_before_step"])
def test_a_hook_may_stop_the_run(small: list[str], tmp_path: Path, event: str) -> None:
    """`run.stop(reason)` ends it after the step at hand, evaluated, saved and exported."""
    body = f"@hookimpl\ndef {event}(run):\n    if run.state.step == 2: run.stop('enough')\n"
    done = run(small, tmp_path / "r", hooks_file(tmp_path, body))
    last = 3 if event == "llmx_before_step" else 2
    assert (done.state.step, done.stop_reason) == (last, "enough")
    assert rows(tmp_path / "r", "step")[-1] == last
    assert (tmp_path / "r" / "model" / "config.json").exists()


def test_a_hook_of_one_rank_may_stop_all(small: list[str], tmp_path: Path) -> None:
    """Rank 0 alone hears of a checkpoint; what it decides there the others hear before the next step."""
    body = "@hookimpl\ndef llmx_after_checkpoint(run, path):\n    if run.state.step == 2: run.stop('enough')\n"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "llmx", "run"]
    given = ["train.steps=6", "checkpoint.every=2", "--tokenizer", "char", "--out", tmp_path / "r"]
    hooks = ["--hooks", hooks_file(tmp_path, body)]
    subprocess.run([*launch, *small, *map(str, given), *hooks], check=True, capture_output=True, timeout=120)
    assert rows(tmp_path / "r", "step")[-1] == 2


def test_a_run_that_was_stopped_and_killed_ends_where_it_was_stopped(small: list[str], tmp_path: Path) -> None:
    """As the undisturbed one does; resumed once more after its end, it goes on."""
    body = """
        @hookimpl
        def llmx_after_eval(run):
            if run.state.step == 2: run.stop("enough")
        @hookimpl
        def llmx_before_export(run):
            if not (run.folder / "killed").exists():
                (run.folder / "killed").touch()
                raise KeyError("as if killed")
    """
    hooks = hooks_file(tmp_path, body)
    with pytest.raises(LlmxError, match="as if killed"):
        run(small, tmp_path / "r", hooks)
    done = llmx.run(tmp_path / "r", resume=True)
    assert (done.state.step, done.stop_reason) == (2, "enough")
    assert (tmp_path / "r" / "model").exists()
    assert llmx.run(tmp_path / "r", resume=True).state.step == 4


def test_a_listener_that_joined_after_the_best_step_is_left_out_of_its_export(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its present average has nothing to do with the weights of that step."""
    best = "@hookimpl\ndef llmx_after_eval(run, metrics): run.state.best_step = 2\n"
    run(small, tmp_path / "r", hooks_file(tmp_path, best), "checkpoint.export=best")
    llmx.run(tmp_path / "r", resume=True, callback=["ema"], overrides=["train.steps=6"])
    found = load_file(tmp_path / "r" / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(weight, found[name]) for name, weight in weights(tmp_path / "r").items())
    assert "callback ema: was not part of the run at step 2, the best: exported without" in capsys.readouterr().err


OWN_LOSS = """
    from llmx.nn import linear_cross_entropy
    @hookimpl
    def llmx_objective(run):
        def twice(model, batch):
            hidden = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
            return 2 * linear_cross_entropy(hidden.flatten(0, 1), model.head_weight(), batch.labels_BT.flatten())
        return twice
"""


def test_an_objective_of_ones_own_is_trained_and_measured(small: list[str], tmp_path: Path, plain: Path) -> None:
    """In place of the recipe's: twice its loss, in training and evaluation, and resumed as well."""
    one = ["train.steps=1", "eval.every=1"]
    run(small, tmp_path / "r", hooks_file(tmp_path, OWN_LOSS), *one)
    assert rows(tmp_path / "r", "train/loss")[0] == pytest.approx(2 * rows(plain, "train/loss")[0])
    assert rows(tmp_path / "r", "val/loss")[0] > 1.5 * rows(plain, "val/loss")[0]
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=2"])
    assert rows(tmp_path / "r", "train/loss")[1] > 1.5 * rows(plain, "train/loss")[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", r"llmx_objective: hooks 1 my_hooks\.py: gives a int, not a function"),
        ("type('Own', (), {'pairs': True, '__call__': None})()", r"hooks 1 my_hooks\.py: compares pairs, .*causal-lm"),
    ],
)
def test_a_wrong_objective_is_told(small: list[str], tmp_path: Path, given: str, message: str) -> None:
    """Before anything is trained."""
    body = f"@hookimpl\ndef llmx_objective(run): return {given}\n"
    with pytest.raises(PluginError, match=message):
        run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert not (tmp_path / "r").exists()


def test_two_objectives_are_refused(small: list[str], tmp_path: Path) -> None:
    """Which of them counts nobody can know."""
    (tmp_path / "two").mkdir()
    files = [hooks_file(folder, OWN_LOSS) for folder in (tmp_path, tmp_path / "two")]
    with pytest.raises(PluginError, match=r"hooks 2 my_hooks\.py and hooks 1 my_hooks\.py each give one"):
        llmx.run(overrides=small, tokenizer="char", logger=[], out=tmp_path / "r", hooks=files)


# --- state, places, words -------------------------------------------------------------------------------------------


def test_the_state_of_a_hooks_file_is_resumed(small: list[str], tmp_path: Path) -> None:
    """`state_dict` and `load_state_dict` of the module, tensors and numbers, as an object's."""
    body = """
        state = {"losses": [], "sum": torch.zeros(())}
        def state_dict(): return state
        def load_state_dict(loaded): state.update(loaded)
        @hookimpl
        def llmx_after_step(run, metrics):
            state["losses"].append(metrics["train/loss"])
            state["sum"] = state["sum"] + metrics["train/loss"]
        @hookimpl
        def llmx_after_run(run):
            (run.folder / "losses.json").write_text(__import__("json").dumps(state["losses"]))
            assert abs(float(state["sum"]) - sum(state["losses"])) < 1e-4
    """
    hooks = hooks_file(tmp_path, body)
    run(small, tmp_path / "r", hooks)
    llmx.run(tmp_path / "r", resume=True, overrides=["train.steps=7"])
    assert json.loads((tmp_path / "r" / "losses.json").read_text()) == rows(tmp_path / "r", "train/loss")
    assert len(rows(tmp_path / "r", "train/loss")) == 7


def test_hooks_of_a_recipe_stand_beside_it(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is the recipe's, from wherever it is run, and those of `--hooks` join them."""
    (tmp_path / "recipe").mkdir()
    hooks_file(tmp_path / "recipe", "@hookimpl\ndef llmx_after_run(run): (run.folder / 'one').touch()\n")
    other = tmp_path / "other.py"
    other.write_text("from llmx import hookimpl\n@hookimpl\ndef llmx_after_run(run): (run.folder / 'two').touch()\n")
    recipe = tmp_path / "recipe" / "recipe.toml"
    recipe.write_text('hooks = ["my_hooks.py"]\n')
    monkeypatch.chdir(tmp_path)
    llmx.run(recipe, overrides=small, tokenizer="char", out=tmp_path / "r", hooks=["other.py"])
    assert (tmp_path / "r" / "one").exists()
    assert (tmp_path / "r" / "two").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "@hookimpl\ndef llmx_after_stap(run): pass",
            r"my_hooks\.py:3: unknown hook 'llmx_after_stap'; nearest: llmx_after_step",
        ),
        (
            "@hookimpl\ndef llmx_after_step(run, metric): pass",
            r"my_hooks\.py:3: llmx_after_step asks for metric, and the hook has run, metrics",
        ),
        (
            "@hookimpl\ndef llmx_optimizers(): return []",
            r"my_hooks\.py: llmx_optimizers offers parts: it belongs in a pl",
        ),
        ("def llmx_after_step(run): pass", r"my_hooks\.py: llmx_after_step is not marked with @llmx\.hookimpl"),
        ("1 / 0", r"my_hooks\.py:3: ZeroDivisionError"),
        ("", r"my_hooks\.py: no function is marked"),
    ],
)
def test_a_wrong_hooks_file_is_told(small: list[str], tmp_path: Path, body: str, message: str) -> None:
    """Before anything is trained, with the file and what is wrong in it."""
    with pytest.raises(LlmxError, match=message) as wrong:
        run(small, tmp_path / "r", hooks_file(tmp_path, body))
    assert "\n" not in str(wrong.value)
    assert not (tmp_path / "r").exists()


def test_a_hooks_file_may_define_dataclasses(small: list[str], tmp_path: Path) -> None:
    """They look their module up by its name."""
    body = "from __future__ import annotations\nimport dataclasses\nfrom llmx import hookimpl\n"
    body += "@dataclasses.dataclass\nclass Seen:\n    steps: int = 0\n"
    body += "@hookimpl\ndef llmx_after_run(run): (run.folder / 'one').touch()\n"
    (tmp_path / "my_hooks.py").write_text(body)
    run(small, tmp_path / "r", str(tmp_path / "my_hooks.py"))
    assert (tmp_path / "r" / "one").exists()


def test_the_state_of_a_hooks_file_moves_with_its_project(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept by the file's name and place in the list; a relative path in an override is the working folder's."""
    (tmp_path / "old").mkdir()
    body = """
        seen = {"steps": 0}
        def state_dict(): return seen
        def load_state_dict(saved): seen.update(saved)
        @hookimpl
        def llmx_after_step(run): seen["steps"] += 1
        @hookimpl
        def llmx_after_run(run): (run.folder / f"seen-{seen['steps']}").touch()
    """
    hooks_file(tmp_path / "old", body)
    monkeypatch.chdir(tmp_path / "old")
    run(small, tmp_path / "r", None, 'hooks=["my_hooks.py"]')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = [f"hooks=['{tmp_path / 'new' / 'my_hooks.py'}']", "train.steps=6"]
    llmx.run(tmp_path / "r", resume=True, overrides=moved)
    assert (tmp_path / "r" / "seen-6").exists()


def test_a_missing_hooks_file_is_told(small: list[str], tmp_path: Path) -> None:
    """With its whole path."""
    with pytest.raises(RecipeError, match=r"hooks: /.*/nope\.py: no such file"):
        run(small, tmp_path / "r", "nope.py")


def test_the_hooks_are_listed_with_their_contracts(llmx_cli: Cli) -> None:
    """Every hook of the plan, its arguments and its whole docstring; one by name; a wrong name is told the nearest."""
    listed = {row["name"]: row for row in json.loads(llmx_cli("hooks", "--json").stdout)}
    assert listed.keys() == EVENTS.keys() | {f"llmx_{kind}s" for kind in KINDS}
    for name, arguments in EVENTS.items():
        assert listed[name]["arguments"] == arguments
        assert listed[name]["contract"] == inspect.getdoc(getattr(hookspecs, name))
    one = llmx_cli("hooks", "llmx_after_step").stdout
    assert one.startswith("llmx_after_step(run, metrics)\n")
    assert "An exception ends the run" in one
    wrong = llmx_cli("hooks", "after_steps")
    assert (wrong.returncode, "nearest: llmx_after_step" in wrong.stderr) == (2, True)
