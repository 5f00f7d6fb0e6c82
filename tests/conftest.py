"""A cache of its own for every test session, a small corpus, small runs, and a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # a machine that does other work too is no failure

if "PYTEST_XDIST_WORKER" in os.environ:  # here, for torch reads it once, and the folders' own conftest.py import it
    # each of several workers has one thread: threads of two that wait on the same cores took 14 times as long
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = ("test_docs.py", "test_compiled.py", "test_eval.py", "test_plan.py")

SMALL = [
    "model.preset=nano",
    "train.steps=12",
    "train.tokens_per_update=512",
    "train.precision=fp32",
    "optimizer.lr=5e-3",
    "generate.samples=0",
]
"""Overrides that make a run of about a second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: the worker that has one last is waited for."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache, and none sees the user's variables."""
    for name in [name for name in os.environ if name.startswith("LLMX_")]:
        del os.environ[name]
    os.environ["LLMX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 120 kB of English in one file: a part of the documentation every Python carries."""
    import pydoc_data.topics

    text = "\n".join(topic for topic in pydoc_data.topics.topics.values() if topic)[:120_000]
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small(corpus: Path) -> list[str]:
    """Overrides of a small run on the corpus."""
    return [f"data.path={corpus}", *SMALL]


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def llmx_cli() -> Cli:
    """Run `llmx` in a process of its own, as a user does."""

    def run(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llmx", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "COLUMNS": "200", **variables},
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def char_run(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A finished small run with the character tokenizer."""
    import llmx

    folder = tmp_path_factory.mktemp("runs") / "char"
    llmx.run(overrides=small, tokenizer="char", logger=["jsonl"], out=folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; these proofs fail without it."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "these tests need Chromium on PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
