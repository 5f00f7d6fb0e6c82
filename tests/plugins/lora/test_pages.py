"""Pages of weights that were packed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from llmx_lora.pages import let_go


def resident_file_bytes() -> int:
    """Bytes of mapped files that this process has in memory."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("RssFile")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the advice is Linux's")
def test_a_mapped_weight_is_let_go_and_read_again(tmp_path: Path) -> None:
    """Its pages leave the process, and its numbers are those of the file when it is looked at again."""
    weight = torch.arange(8 * 2**20, dtype=torch.float32)  # 32 MiB
    save_file({"weight": weight}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        mapped = file.get_tensor("weight")
    total = mapped.sum()
    held = resident_file_bytes()
    let_go(mapped)
    assert resident_file_bytes() < held - 30 * 2**20
    assert mapped.sum() == total
    assert torch.equal(mapped, weight)


def test_a_weight_of_the_process_keeps_its_numbers() -> None:
    """Memory that is no file's is not emptied, nor is what lies beside a view."""
    weight = torch.randn(2**20)
    before = weight.clone()
    let_go(weight[1000:900_000])
    assert torch.equal(weight, before)
