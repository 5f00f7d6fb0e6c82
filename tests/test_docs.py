"""The docs: both languages show the same, and what they show is what happens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from llmx import Registry
from llmx.cli import COMMAND_GROUP, COMMANDS
from llmx.component import KINDS

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
FENCE = re.compile(r"(?:<!-- (?:file: )?(?P<label>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)\n```", re.DOTALL)

SMALL = {
    "LLMX_MODEL__PRESET": "nano",
    "LLMX_DATA__SEQUENCE_LENGTH": "64",
    "LLMX_TOKENIZER__VOCAB_SIZE": "600",
    "LLMX_GENERATE__SAMPLES": "1",
}
"""What makes the runs of the docs small without changing how they are written."""
STARTED = ("LLMX_MODEL__PRESET", "LLMX_TOKENIZER__VOCAB_SIZE")
"""What a run that starts from a model does not take: its folder says it."""


def blocks(path: Path) -> list[tuple[str, str, str]]:
    """Return (label, language, body) of every fenced block."""
    found = [(m["label"] or "", m["language"], m["body"]) for m in FENCE.finditer(path.read_text(encoding="utf-8"))]
    assert len(found) > 10
    return found


def test_both_languages_show_the_same_blocks() -> None:
    """What a Chinese reader copies is what an English reader copies."""
    assert blocks(READMES[0]) == blocks(READMES[1])
    headings = [re.findall(r"^#+", path.read_text(encoding="utf-8"), re.MULTILINE) for path in READMES]
    assert headings[0] == headings[1]


def plugin_commands() -> list[str]:
    """Return the commands that our own plugins add."""
    return sorted(each.name for each in distribution("llmx").entry_points if each.group == COMMAND_GROUP)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_command_and_part_is_in_the_readme(path: Path) -> None:
    """A section for each command, and a row for each kind with exactly what we offer."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^### llmx (\w+)", text, re.MULTILINE) == [*COMMANDS, *plugin_commands()]
    rows = dict(re.findall(r"^\| (\w+) \| ([a-z0-9, .-]+) \|$", text, re.MULTILINE))
    offered: dict[str, list[str]] = {}
    for offer in Registry().offers():
        if offer.plugin.distribution == "llmx":
            offered.setdefault(offer.kind, []).append(offer.component.name)
    assert {kind: names.split(", ") for kind, names in rows.items() if kind in KINDS} == offered


def test_the_test_command_is_what_ci_runs() -> None:
    """`.ci/run` takes the command out of the README, so that it cannot drift."""
    labels = {label: body for label, _, body in blocks(READMES[0])}
    assert ".venv/bin/llmx run" in labels["main-command"]
    script = (ROOT / ".ci" / "run").read_text()
    awk = re.search(r"awk '([^']*)'", script)
    assert awk
    taken = subprocess.run(["awk", awk[1], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert taken.strip() == labels["test-command"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A folder with the files the README shows, a novel and a corpus."""
    folder = tmp_path_factory.mktemp("readme")
    for label, _, body in blocks(READMES[0]):
        if label.endswith((".toml", ".py", ".jsonl")):
            (folder / label).parent.mkdir(exist_ok=True)
            (folder / label).write_text(body + "\n", encoding="utf-8")
    shutil.copy(corpus, folder / "novel.txt")
    (folder / "corpus").mkdir()
    lines = [line for line in corpus.read_text(encoding="utf-8").splitlines() if len(line) > 40]
    text = "\n".join('{"text": ' + json.dumps(line) + "}" for line in lines)
    (folder / "corpus" / "a.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_the_commands_of_the_readme_run(place: Path) -> None:
    """Every console line, in its order, in a folder with the files shown; a stranger's plugin is installed by pip.

    Only the numbers of steps are made smaller; broken on purpose, that plugin then stops only runs that name it.
    """
    site = place / "site"
    env = {**os.environ, **SMALL, "PYTHONPATH": str(site), "COLUMNS": "200"}
    lines = [line for _, language, body in blocks(READMES[0]) if language == "console" for line in body.splitlines()]
    assert len(lines) >= 14
    for line in lines:
        assert line.startswith("$ ")
        given = STARTED if re.search(r"pretrained=|tuned\.toml", line) else ()
        done = run_line(line[2:], place, {name: env[name] for name in env if name not in given}, site)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "runs/hooked" in done.stdout

    (site / "llmx_sgd.py").write_text("1 / 0")
    other = run_line("llmx run recipe.toml --out runs/other", place, env, site)
    assert other.returncode == 0
    assert other.stderr.startswith("llmx: plugin sgd of llmx-sgd did not load: ZeroDivisionError")
    named = run_line("llmx run recipe.toml --optimizer sgd --out runs/named", place, env, site)
    assert named.returncode == 3
    assert "ZeroDivisionError: division by zero" in named.stderr
    assert 'llmx_sgd.py", line 1' in named.stderr
    assert not (place / "runs" / "named").exists()


def run_line(line: str, folder: Path, env: dict[str, str], site: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the README as it stands, but small, with this interpreter and into `site`."""
    line = re.sub(r"train\.steps=\d+", lambda found: f"train.steps={int(found[0].split('=')[1]) // 100 + 2}", line)
    line = line.replace("llmx run recipe.toml", "llmx run recipe.toml train.steps=3 train.micro_batch=128")
    line = re.sub(r"^torchrun ", f"{sys.executable} -m torch.distributed.run ", line)
    line = re.sub(r"^((?:\w+=\S+ )*)(llmx|pytest) ", rf"\1{sys.executable} -m \2 ", line)
    line = re.sub(r"^python ", f"{sys.executable} ", line)
    pip = f"{sys.executable} -m pip install -q --no-deps --no-build-isolation --target {site}"
    line = re.sub(r"^pip install( -e)?", pip, line)
    line = re.sub(r"^pip wheel", f"{sys.executable} -m pip wheel --no-build-isolation", line)
    return subprocess.run(
        line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_python_of_the_readme_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the API, small."""
    import torch

    (code,) = [body for label, language, body in blocks(READMES[0]) if language == "python" and not label]
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place)
    names: dict[str, object] = {"ids_BT": torch.zeros(1, 3, dtype=torch.long)}
    exec(code.replace('"train.steps": 200', '"train.steps": 2'), names)
    assert names["logits_BTV"].shape == (1, 3, 600)  # type: ignore[attr-defined]


PAGES = sorted((ROOT / "cookbook").glob("*/README.md"))
STEPS = "train.steps=3 train.tokens_per_update=512"
SHORT = f"{STEPS} data.sequence_length=64"
SMALL_PAGES = {
    "qwen3-from-scratch": {"recipe.toml": "train.steps=3 data.sequence_length=64 tokenizer.vocab_size=600"},
    "qwen2.5-continue-pretraining": {"recipe.toml": "train.steps=3 data.sequence_length=64"},
    "qwen3-8b-qlora-8gb": {"recipe.toml": SHORT},
    "mateconv-chinese-pretraining": {
        "recipe.toml": f"{SHORT} model.dim=64 model.layers=2 model.heads=4 model.mlp_dim=128 model.context_length=64",
        "chat.toml": SHORT,
    },
}
"""What makes small the pages whose models have no preset "nano": overrides after the name of a recipe."""
BASES = {"Qwen3-8B": "Qwen3", "Qwen2.5-0.5B": "Qwen2"}
"""Folders that pages begin with, and their families in transformers."""


def write_base(folder: Path, family: str, text: str) -> None:
    """Write a tiny model of random weights with a tokenizer and Qwen3's chat template, as transformers does."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=letters, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator([text], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = (ROOT / "tests" / "plugins" / "qwen3.jinja").read_text(encoding="utf-8")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(fast),
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=family == "Qwen2",
        eos_token_id=fast.eos_token_id,
        **sizes,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_recipe_of_the_cookbook_runs(page: Path, tmp_path: Path, corpus: Path) -> None:
    """By the commands of its page, small, in a folder with the cookbook and a text."""
    assert f"({page.parent.name}/README.md)" in (ROOT / "cookbook" / "README.md").read_text(encoding="utf-8")
    shutil.copytree(ROOT / "cookbook", tmp_path / "cookbook")
    shutil.copy(corpus, tmp_path / "my.txt")
    text = page.read_text(encoding="utf-8")
    for name, family in BASES.items():
        if f"--local-dir {name}" in text:
            write_base(tmp_path / name, family, corpus.read_text(encoding="utf-8"))
    for found in FENCE.finditer(text):
        if (found["label"] or "").endswith((".toml", ".py")):
            (tmp_path / found["label"]).write_text(found["body"] + "\n", encoding="utf-8")
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    assert any("recipe.toml" in line for line in lines)
    site = tmp_path / "site"
    overrides = SMALL_PAGES.get(page.parent.name)
    env = {
        **os.environ,
        "PYTHONPATH": str(site),
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
        **({"LLMX_GENERATE__SAMPLES": "1"} if overrides else SMALL),
    }
    for line in lines:
        line = re.sub(r"train\.epochs=\d+", "train.epochs=1", line)
        for recipe, more in (overrides or {"recipe.toml": STEPS}).items():
            line = line.replace(recipe, f"{recipe} {more}")
        done = run_line(line, tmp_path, env, site)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_there_are_recipes() -> None:
    """A glob that finds nothing would test nothing."""
    assert len(PAGES) >= 10
