"""How long a user waits before a command says something."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

LLMX = Path(sys.executable).with_name("llmx")


def seconds(*arguments: str) -> float:
    """Return the shortest of several runs: what the command takes when nothing else disturbs it."""
    times = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([LLMX, *arguments], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.long
@pytest.mark.parametrize(("arguments", "limit_s"), [(["--help"], 0.15), (["plugins"], 0.5), (["config", "show"], 0.5)])
def test_commands_answer_at_once(arguments: list[str], limit_s: float) -> None:
    """Help, the list of plugins and a resolved recipe, with the interpreter's own start."""
    found = seconds(*arguments)
    assert found < limit_s, f"llmx {' '.join(arguments)}: {found:.3f} s"
