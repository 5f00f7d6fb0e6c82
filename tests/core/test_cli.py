"""The command line: what a user sees, and one plain line with its exit code for everything that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Cli = Any


def test_help_lists_every_command_and_imports_nothing(llmx_cli: Cli) -> None:
    """`llmx --help` shows each command of the package; torch, plugins, pluggy and attrs stay out."""
    from llmx.cli import COMMANDS

    others = {"__init__", "__pycache__", "common", "lazy", "models"}
    assert set(COMMANDS) == {path.stem for path in Path("core/llmx/cli").iterdir()} - others
    out = llmx_cli("--help").stdout
    assert all(f"  {name}  " in out for name in COMMANDS)
    code = (
        "import sys\nfrom llmx.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pluggy', 'attrs', 'cattrs', 'rich', 'llmx_tinyllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments", [["plugins"], ["plugins", "--json"], ["describe", "optimizer", "adamw"], ["config", "show"]]
)
def test_names_resolve_without_torch(arguments: list[str]) -> None:
    """Listing, describing and resolving import every plugin and no torch."""
    code = (
        f"import sys\nfrom llmx.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'pyarrow', 'numpy', 'llmx_tinyllm')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['llmx_tinyllm']"


def test_a_command_that_there_is_not_is_told_with_the_nearest(llmx_cli: Cli) -> None:
    """Of ours, of a group's, and of another distribution's."""
    for given, near in ((["genrate"], "generate"), (["plugins", "instal"], "install"), (["serv"], "serve")):
        done = llmx_cli(*given)
        assert done.returncode == 2
        assert f"No such command '{given[-1]}'; nearest: {near}" in done.stderr


def test_plugins_are_listed(llmx_cli: Cli) -> None:
    """Kind, name, distribution, version and status, as a table and as JSON."""
    rows = json.loads(llmx_cli("plugins", "--json").stdout)
    assert {"kind", "name", "distribution", "version", "status"} <= rows[0].keys()
    assert ("optimizer", "adamw", "llmx", "ok") in {
        (r["kind"], r["name"], r["distribution"], r["status"]) for r in rows
    }
    table = llmx_cli("plugins").stdout
    assert len(table.splitlines()) == len(rows) + 1
    assert {row["kind"] for row in json.loads(llmx_cli("plugins", "--json", "--kind", "sampler").stdout)} == {"sampler"}


def test_a_part_is_described_from_its_options(llmx_cli: Cli) -> None:
    """Name, default, type, unit and meaning of every option, and of the core's sections."""
    out = llmx_cli("describe", "scheduler", "cosine").stdout
    assert "warmup_steps" in out
    assert "[steps]" in out
    rows = json.loads(llmx_cli("describe", "optimizer", "adamw", "--json").stdout)
    assert all(row["meaning"] for row in rows)
    assert "tokens_per_update" in llmx_cli("describe", "train").stdout


def test_every_option_says_what_it_means() -> None:
    """No option of a built-in part or of the core is without its meaning."""
    from llmx import Registry
    from llmx.options import describe
    from llmx.sections import CORE_SECTIONS, DataOptions

    classes = [offer.component.options for offer in Registry().offers()] + [*CORE_SECTIONS.values(), DataOptions]
    silent = [f"{cls.__name__}.{doc.name}" for cls in classes for doc in describe(cls) if not doc.meaning]
    assert len(classes) > 20
    assert not silent


def test_config_shows_where_each_value_is_from(llmx_cli: Cli, tmp_path: Path) -> None:
    """File, variable, flag, override or default."""
    (tmp_path / "r.toml").write_text("[train]\nsteps = 7\n")
    out = llmx_cli(
        "config", "show", tmp_path / "r.toml", "--origin", "--optimizer", "adam", "train.seed=3", LLMX_EVAL__EVERY="5"
    ).stdout
    origins = {line.split("  #")[0].strip(): line.rpartition("# ")[2] for line in out.splitlines()}
    assert origins["steps = 7"] == str(tmp_path / "r.toml")
    assert origins["seed = 3"] == "train.seed=3"
    assert origins["every = 5"] == "environment"
    assert origins['name = "adam"'] == "--optimizer"
    assert origins["clip_norm = 1.0"] == "default"


def test_a_dry_run_plans_and_writes_nothing(llmx_cli: Cli, small: list[str], tmp_path: Path) -> None:
    """Parameters, tokens, steps and memory; no folder appears."""
    done = llmx_cli("run", "--dry-run", *small, "--tokenizer", "char", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 steps of 512 tokens = 6,144 tokens" in done.stdout
    assert not list(tmp_path.iterdir())
    plan = json.loads(llmx_cli("run", "--dry-run", "--json", *small, "--tokenizer", "char", cwd=tmp_path).stdout)
    assert plan["total_tokens"] == 6144
    assert 4 * plan["parameters"] * 4 == pytest.approx(plan["weight_bytes"], rel=0.01)  # weight, gradient, two moments
    assert plan["activation_bytes"] > 0


def test_the_default_model_has_the_published_size(llmx_cli: Cli, corpus: Path) -> None:
    """8,482,464 parameters with the tied embedding of 4,096 tokens."""
    done = llmx_cli("run", "--dry-run", "--json", f"data.path={corpus}", "tokenizer.vocab_size=4096")
    assert json.loads(done.stdout)["parameters"] == 8_482_464


def test_a_run_reports_and_generates(llmx_cli: Cli, small: list[str], tmp_path: Path) -> None:
    """A user's first minutes: run, read its end, generate as it says, resume longer."""
    arguments = [each for each in small if "samples" not in each]
    done = llmx_cli("run", *arguments, "--tokenizer", "char", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "validation loss" in done.stdout
    assert "The model is in runs/tinyllm-topics/model" in done.stdout
    assert "llmx generate runs/tinyllm-topics" in done.stdout
    again = llmx_cli("run", *arguments, "--tokenizer", "char", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["folder"] == "runs/tinyllm-topics-2"
    assert "validation loss" in again.stderr
    plain = llmx_cli("generate", "runs/tinyllm-topics", "The ", "--seed", "3", cwd=tmp_path)
    streamed = llmx_cli("generate", "runs/tinyllm-topics", "The ", "--seed", "3", "--stream", cwd=tmp_path)
    assert plain.stdout == streamed.stdout
    assert plain.stdout.startswith("The ")
    as_json = llmx_cli("generate", "runs/tinyllm-topics", "The ", "--seed", "3", "--json", cwd=tmp_path)
    assert "The " + json.loads(as_json.stdout)["text"] + "\n" == plain.stdout
    longer = llmx_cli("run", "runs/tinyllm-topics", "--resume", "train.steps=14", cwd=tmp_path)
    assert "Going on after step 12 of 14" in longer.stdout
    assert "steps = 14" in (tmp_path / "runs/tinyllm-topics/recipe.toml").read_text()


def test_what_to_do_next_can_be_pasted(small: list[str], tmp_path: Path) -> None:
    """As the README's first command has it: by the program's path, where no environment is active."""
    program = Path(sys.executable).with_name("llmx")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llmx").symlink_to(program)
    environment = {**os.environ, "PATH": os.defpath}
    command = ["bin/llmx", "run", *small, "train.steps=2", "--tokenizer", "char", "--out", "r"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    (line,) = (each.strip() for each in done.stdout.splitlines() if " generate r " in each)
    assert line.startswith("bin/llmx generate r ")
    pasted = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert pasted.stdout


# --- bad input ------------------------------------------------------------------------------------------------------


def fails(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Check the exit code, one plain line on stderr, and what it says."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--optimizer", "muno"], 2, ["--optimizer: optimizer.name = 'muno': no such optimizer", "nearest:"]),
        (["train.steps=many"], 2, ["train.steps: must be int, not 'many' (str)"]),
        (["train.steps=0"], 2, ["train.steps: 'steps' must be >= 1: 0"]),
        (["train.stesp=3"], 2, ["no such option; nearest: steps"]),
        (["no-such.toml"], 2, ["no-such.toml: no such recipe file"]),
        (["a.toml", "b.toml"], 2, ["b.toml", "neither an option, nor KEY=VALUE"]),
        (["data.path=no/such.txt"], 2, ["no/such.txt", "no such file or folder"]),
        (["data.path=no/*.txt"], 2, ["no file matches"]),
        (["train.tokens_per_update=1000"], 2, ["not a multiple of the sequence length 64; nearest: 960 or 1024"]),
        (["train.micro_batch=3"], 2, ["train.micro_batch = 3: must divide the 8 rows"]),
        (["data.sequence_length=65"], 2, ["model's context of 64 tokens; set 65 as model.context_length, or"]),
        (["train.device=cuda:99"], 2, ["device = 'cuda:99': not usable here"]),
        (["model.kv_heads=3"], 2, ["model: kv_heads = 3 must divide heads = 4"]),
        (["--hooks", "no.py"], 2, ["hooks: /", "no.py: no such file"]),
        (["scheduler.warmup_steps=99"], 2, ["scheduler.warmup_steps = 99: longer than the run of 12 steps"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    llmx_cli: Cli, small: list[str], tmp_path: Path, arguments: list[str], code: int, parts: list[str]
) -> None:
    """Where, what and what to do; the exit code of its branch; nothing is written."""
    short = [] if "sentencepiece" not in arguments else [f"data.path={_short_text(tmp_path)}"]
    names = ["--tokenizer", "char"] if "--tokenizer" not in arguments else []
    done = llmx_cli("run", *small, *names, *short, *arguments, "--out", "out", cwd=tmp_path)
    fails(done, code, *parts)
    assert not (tmp_path / "out").exists()


def _short_text(folder: Path) -> Path:
    (folder / "short.txt").write_text("A few words are not enough to learn four thousand pieces from. " * 30)
    return folder / "short.txt"


def test_places_that_cannot_be_written_are_told_before_the_work(
    llmx_cli: Cli, small: list[str], tmp_path: Path
) -> None:
    """A file in the way, or a cache that cannot be made."""
    (tmp_path / "file").write_text("x")
    fails(llmx_cli("run", *small, "--out", tmp_path / "file" / "x"), 2, "is no folder one may write to")
    done = llmx_cli("run", *small, "--out", tmp_path / "x", LLMX_CACHE=str(tmp_path / "file" / "c"))
    fails(done, 1, "Not a directory")
    assert not (tmp_path / "x").exists()


def test_a_run_may_be_written_into_an_empty_folder(llmx_cli: Cli, small: list[str], tmp_path: Path) -> None:
    """The folder itself stays, as a mount must; `.` is one too."""
    number = tmp_path.stat().st_ino
    done = llmx_cli("run", *small, "--tokenizer", "char", "--out", ".", "generate.samples=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tmp_path.stat().st_ino == number
    assert (tmp_path / "model" / "config.json").exists()


def test_hooks_may_be_named_again(llmx_cli: Cli, small: list[str], tmp_path: Path) -> None:
    """The first command with --resume added works, though the recipe lists the hooks already."""
    (tmp_path / "h.py").write_text("from llmx import hookimpl\n@hookimpl\ndef llmx_after_run(run): print('heard')\n")
    command = ["run", *small, "--tokenizer", "char", "--hooks", "h.py", "--out", "r"]
    assert "heard" in llmx_cli(*command, cwd=tmp_path).stdout
    again = llmx_cli(*command, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("heard") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "hold no text"), (" \n\n ", "hold no text"), ("short", "fewer than one row of 64")],
)
def test_a_corpus_without_enough_text_is_refused(
    llmx_cli: Cli, small: list[str], tmp_path: Path, text: str, message: str
) -> None:
    """Empty, blank and shorter than one sequence."""
    (tmp_path / "c.txt").write_text(text)
    done = llmx_cli("run", *small, "data.path=c.txt", "--tokenizer", "char", "--out", "out", cwd=tmp_path)
    fails(done, 2, message)
    assert not (tmp_path / "out").exists()


def test_another_run_is_not_overwritten(llmx_cli: Cli, char_run: Path, small: list[str], tmp_path: Path) -> None:
    """An output folder that holds a run, or other files, is left as it is."""
    before = sorted((path, path.stat().st_mtime_ns) for path in char_run.rglob("*"))
    done = llmx_cli("run", *small, "--out", char_run)
    fails(done, 2, "holds another run: add --resume to go on with it, or give another --out")
    assert sorted((path, path.stat().st_mtime_ns) for path in char_run.rglob("*")) == before
    (tmp_path / "mine.txt").write_text("precious")
    fails(llmx_cli("run", *small, "--out", tmp_path), 2, "is not empty and holds no run")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_resume_needs_a_run(llmx_cli: Cli, tmp_path: Path) -> None:
    """`--resume` without a run, or on a folder that holds none, says so."""
    fails(llmx_cli("run", "--resume"), 2, "needs the run to go on with")
    fails(llmx_cli("run", tmp_path, "--resume"), 2, "holds no run to resume")


def test_generate_says_what_is_wrong(llmx_cli: Cli, char_run: Path, tmp_path: Path) -> None:
    """A folder that is none, a prompt longer than the context, a sampler that does not exist."""
    fails(llmx_cli("generate", tmp_path / "no", "x"), 2, "no such folder: give a run folder or a model folder")
    fails(llmx_cli("generate", char_run, "x" * 100), 2, "prompt: is 101 tokens long; the model's context of 64")
    fails(llmx_cli("generate", char_run, "x", "--sampler", "topp"), 2, "no such sampler; nearest: top-p")
    fails(llmx_cli("generate", char_run, "two", "words"), 2, "put a prompt of several words in quotes")
    fails(
        llmx_cli("generate", char_run, b"\xff\xfe".decode("utf-8", "surrogateescape")), 2, "prompt: is not valid UTF-8"
    )
    fails(llmx_cli("generate", char_run, "x", "--temprature", "1"), 2, "No such option", "llmx generate --help")
    fails(llmx_cli("run", char_run, "--resume", "train.steps=2"), 2, "step 12 is done already: give train.steps=12")
    (tmp_path / "text.txt").write_text("x")
    fails(llmx_cli("run", tmp_path / "text.txt"), 2, "is no recipe: to train on it, write data.path=")
    (tmp_path / "text.json").write_text('[{"text": "x"}]')
    fails(llmx_cli("data", "inspect", tmp_path / "text.json"), 2, "is no recipe, but a list: to train on it, write")
    fails(llmx_cli("run", "data.path=x.docx"), 2, "no dataset is chosen by this ending")
    fails(llmx_cli("generate", char_run, "x", "--device", "cuda:9"), 2, "device = 'cuda:9': not usable here")
    long = 'generate.prompts=["' + "x" * 300 + '"]'
    fails(llmx_cli("run", char_run, "--out", tmp_path / "n", long), 2, "prompt: is 301 tokens long")


def test_describe_and_plugins_say_what_is_wrong(llmx_cli: Cli) -> None:
    """Unknown kinds and names."""
    fails(llmx_cli("describe", "optimiser", "adam"), 2, "'optimiser': is neither a kind")
    fails(llmx_cli("describe", "optimizer"), 2, "which one? adam, adamw")
    fails(llmx_cli("describe", "optimizer", "adan"), 2, "no such optimizer; nearest: adam")
    fails(llmx_cli("plugins", "--kind", "x"), 2, "no such kind")


def test_debug_shows_the_traceback(llmx_cli: Cli) -> None:
    """For those who look for a fault of ours."""
    done = llmx_cli("--debug", "run", "no.toml")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
