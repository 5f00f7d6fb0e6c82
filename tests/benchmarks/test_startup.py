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


@pytest.mark.long
def test_fifty_plugins_do_not_slow_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty distributions with options classes of their own: help reads names alone, the list imports all of them."""
    for number in range(50):
        module = f"llmx_plugin_{number}"
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llmx-plugin-{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[llmx]\np{number} = {module}\n")
        fields = "".join(f"    option_{i}: float = field(default=0.5, validator=validators.ge(0))\n" for i in range(8))
        (tmp_path / f"{module}.py").write_text(
            "from attrs import field, frozen, validators\nfrom llmx import Component, hookimpl\n"
            f"@frozen\nclass Options:\n{fields}"
            "@hookimpl\ndef llmx_optimizers():\n"
            f"    return [Component(name='part-{number}', target='{module}:build', options=Options)]\n"
        )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    listed = subprocess.run([sys.executable, "-m", "llmx", "plugins"], capture_output=True, text=True, check=True)
    assert listed.stdout.count("llmx-plugin-") == 50
    assert seconds("--help") < 0.2
    assert seconds("plugins") < 1.0
