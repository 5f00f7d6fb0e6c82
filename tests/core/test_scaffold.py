"""`llmx plugins new`: each kind's project is installed, tested and used as its author would."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from llmx.component import KINDS
from llmx.errors import RecipeError
from llmx.options import describe, structure
from llmx.scaffold import Names, write_project
from llmx.scaffold.names import LONGEST
from llmx.scaffold.project import COMMON, TEMPLATES, render, template_paths

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK = ("optimizer", "sampler")
"""Kinds that every test run installs and trains with; the others take about ten seconds each."""

SMALL = ["model.preset=nano", "train.steps=3", "train.tokens_per_update=512", "generate.samples=1"]
"""What makes the command of a README small; nothing else of it is changed."""

EACH_KIND = [each if each in QUICK else pytest.param(each, marks=pytest.mark.long) for each in KINDS]


@pytest.mark.parametrize("kind", EACH_KIND)
def test_a_new_project_works_as_it_is(kind: str, tmp_path: Path, corpus: Path, llmx_cli: Cli) -> None:
    """Written, installed by pip, its own tests pass, it is described, and the command of its README runs, small."""
    names = Names.of(f"llmx-zoo-{kind}", kind)
    project, site = tmp_path / names.distribution, tmp_path / "site"
    done = llmx_cli("plugins", "new", names.distribution, "--kind", kind, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file())
    assert sorted(json.loads(done.stdout)["files"]) == written

    env = {"PYTHONPATH": str(site)}
    pip = ["install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", site]
    run_python("pip", *pip, f"./{project.name}", cwd=tmp_path)
    tested = run_python("pytest", "-v", "-p", "no:cacheprovider", project.name, cwd=tmp_path, **env)
    assert re.search(rf"test_conforms\[{kind}-zoo-{kind}-[\w-]+\] PASSED", tested)
    described = llmx_cli("describe", kind, names.part, cwd=tmp_path, **env)
    assert (described.returncode, described.stderr) == (0, "")
    assert f"{kind} {names.part}, from {names.distribution} 0.1.0" in described.stdout

    write_table(corpus, tmp_path / "table.dsv")
    own = ["--tokenizer", "char"] * (kind != "tokenizer") + [f"data.path={corpus}"] * (kind != "dataset")
    if kind == "sampler":  # its README shows it on a run that is there
        llmx_cli("run", *own, *SMALL, "--out", "runs/mine", cwd=tmp_path)
    shown = re.search(r"^## Use\n.*?^\$ llmx (.*?)$", (project / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    rest = ["--max-new-tokens", "4"] if kind == "sampler" else [*own, *SMALL]
    used = llmx_cli(*shlex.split(shown[1]), *rest, cwd=tmp_path, **env)
    assert used.returncode == 0, used.stderr
    if kind != "sampler":
        recipe = tomllib.loads((tmp_path / "runs" / names.part / "recipe.toml").read_text(encoding="utf-8"))
        assert re.search(rf"'({names.distribution}:)?{names.part}'", repr(recipe))


def run_python(module: str, *arguments: object, cwd: Path, **variables: str) -> str:
    """Run a module in a process of its own and return what it printed."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    env = {**os.environ, **variables}
    done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def write_table(corpus: Path, path: Path) -> None:
    """Write the corpus as a CSV table of paragraphs."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["body"])
        rows.writerows([each] for each in corpus.read_text(encoding="utf-8").split("\n\n"))


def longest_name() -> str:
    return ("x" + "abcdefg" * LONGEST)[:LONGEST]


@pytest.fixture(scope="module")
def every_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project of each kind under a short name, a long one, and one without the prefix."""
    folder = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        for name in ("llmx-x", f"llmx-{longest_name()}"[:LONGEST], longest_name()):
            write_project(Names.of(name, kind), folder / f"{kind}-{len(name)}-{name[:6]}")
    return folder


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_projects_are_formatted(command: list[str], every_project: Path) -> None:
    """ruff finds nothing in any project, by the rules in its own pyproject.toml, however long its name is."""
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--output-format", "concise"]
    done = subprocess.run([*ruff, "."], cwd=every_project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list(every_project.rglob("*.py"))) == 3 * len(KINDS) * 3
    rules = {tomllib.loads(path.read_text())["tool"]["ruff"]["line-length"] for path in every_project.rglob("*.toml")}
    assert rules == {120}


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_a_meaning_and_the_default_of_the_readme(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README shows a section that gives each option its default where it has one, and each has a docstring."""
    names = Names.of(f"llmx-shown-{kind}", kind)
    write_project(names, tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path / "project"))
    module = importlib.import_module(names.package)
    (component,) = getattr(module, f"llmx_{kind}s")()
    readme = (tmp_path / "project" / "README.md").read_text(encoding="utf-8")
    shown: Any = tomllib.loads(readme.partition("```toml\n")[2].partition("```")[0])
    shown = shown[{"dataset": "data"}.get(kind, kind)]
    values = shown[0] if isinstance(shown, list) else shown
    assert values.pop("name") == names.part == component.name
    options, faults = structure(component.options, values, kind)
    assert not faults
    fields = attrs.fields(component.options)
    assert set(values) == {each.name for each in fields if each.default is not None}
    required = {each.name: values[each.name] for each in fields if each.default is attrs.NOTHING}
    assert options == component.options(**required)
    for doc in describe(component.options):
        assert len(doc.meaning) > 20, doc.name
        assert doc.name in readme, doc.name


def test_the_cookbook_shows_what_is_written() -> None:
    """The formula and the entry of the catalogue on the page are those of a project that is made today."""
    page = (Path(__file__).parents[2] / "cookbook" / "write-a-plugin" / "README.md").read_text(encoding="utf-8")
    texts = render(Names.of("llmx-lion", "optimizer"))
    (formula,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert formula in texts[Path("llmx_lion/optimizer.py")]
    (entry,) = re.findall(r"```toml\n(\[\[plugin\]\].*?)```", page, re.DOTALL)
    readme = texts[Path("README.md")]
    own = tomllib.loads(readme[readme.index("[[plugin]]") :].partition("```")[0])["plugin"][0]
    shown = tomllib.loads(entry)["plugin"][0]
    for key in ("requires", "source", "tested"):  # a path in place of an index; versions of another day
        assert own.pop(key)
        assert shown.pop(key)
    assert shown == own


def test_every_template_is_used() -> None:
    """Each kind has code, tests and a README, and no file in the templates is without the ending."""
    assert [path for path in TEMPLATES.rglob("*") if path.is_file() and path.suffix != ".tmpl"] == []
    assert {path.name for path in TEMPLATES.iterdir()} == {COMMON, *KINDS}
    for kind in KINDS:
        own = {"PACKAGE/__init__.py.tmpl", f"PACKAGE/{kind}.py.tmpl", "tests/test_PART.py.tmpl", "README.md.tmpl"}
        assert set(template_paths(kind)) == own
        texts = render(Names.of("llmx-lion", kind))
        assert not [path for path, text in texts.items() if "<<" in text or "<%" in text]
        assert "Your own" in texts[Path("llmx_lion", f"{kind}.py")]


def test_what_was_written_is_said(tmp_path: Path, llmx_cli: Cli) -> None:
    """Every file, and commands that work from where one is; a name that could be found better gets a hint."""
    done = llmx_cli("plugins", "new", "my-lion", "--kind", "optimizer", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "llmx: plugins are found more easily by a name that begins with llmx-: llmx-my-lion\n"
    for path in (tmp_path / "my-lion").rglob("*"):
        assert path.is_dir() or f"  {path.relative_to(tmp_path / 'my-lion')}\n" in done.stdout
    for line in ("pip install -e './my-lion[test]'", "pytest my-lion", "llmx plugins check my-lion"):
        assert f"  {line}\n" in done.stdout
    init = (tmp_path / "my-lion" / "my_lion" / "__init__.py").read_text()
    assert "class MyLionOptions:" in init
    assert re.search(r'^llmx_api = "\d+\.\d+"$', init, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("llmx-lion", "optimiser", "--kind optimiser: no such kind; nearest: optimizer"),
        ("llmx-lion", "xyz", "--kind xyz: no such kind; kinds: model, tokenizer, "),
        ("../lion", "optimizer", "'../lion': is no name of a distribution"),
        ("llmx-", "optimizer", "'llmx-': is no name of a distribution"),
        ("", "optimizer", "'': is no name of a distribution"),
        ("löwe", "optimizer", "'löwe': is no name of a distribution"),
        ("llmx-lion\n", "optimizer", "is no name of a distribution"),
        ("l" * (LONGEST + 1), "optimizer", f"has {LONGEST + 1} characters: give at most {LONGEST}"),
        ("llmx-4bit", "adapter", "classes cannot be named after '4bit': begin it with a letter"),
        ("lambda", "optimizer", "'lambda' is a word of Python: try llmx-lambda"),
        ("json", "logger", "there is a module json already"),
        ("torch", "optimizer", "there is a module torch already"),
        ("LLMX.tinyllm", "model", "'llmx-tinyllm': there is a module llmx_tinyllm already"),
        ("llmx-adamw", "optimizer", "'llmx-adamw': llmx offers the optimizer 'adamw' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, kind: str, message: str) -> None:
    """One line that says what is wrong with it, and nothing has been written."""
    with pytest.raises(RecipeError) as caught:
        Names.of(name, kind).check()
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llmx-lion", "--kind", "optimiser"], "llmx: --kind optimiser: no such kind; nearest: optimizer"),
        (["a/b", "--kind", "optimizer"], "llmx: plugins new: 'a/b': is no name of a distribution"),
        (["llmx-there", "--kind", "optimizer"], "llmx: plugins new: llmx-there: is there already"),
        (["llmx-lion", "--kind", "optimizer", "--out", "none/x"], "there is no folder none: make it first"),
        (["llmx-lion", "--kind", "optimizer", "--out", "file/x"], "there is no folder file: make it first"),
        (["llmx-lion", "--kind", "optimizer", "--out", "/proc/x"], "llmx: plugins new: /proc/x: cannot be written"),
    ],
    ids=["kind", "name", "existing", "no parent", "parent is a file", "unwritable"],
)
def test_wrong_arguments_write_nothing(arguments: list[str], message: str, tmp_path: Path, llmx_cli: Cli) -> None:
    """One line, exit code 2, and the folder is as it was."""
    (tmp_path / "llmx-there").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    done = llmx_cli("plugins", "new", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A write that fails in the middle, here by a limit on the size of files, leaves no file and no folder."""
    size = 1000
    sizes = [len(text.encode()) for text in render(Names.of("llmx-lion", "optimizer")).values()]
    assert min(sizes) < size < max(sizes)
    done = subprocess.run(
        [sys.executable, "-m", "llmx", "plugins", "new", "llmx-lion", "--kind", "optimizer"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "llmx: plugins new: llmx-lion: cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []
