"""The adapters lora, nf4 and int8 keep what llmx promises of every adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmx import Registry
from llmx.testing.frame import parts_of, run_checks

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"rank": 4, "rslora": True, "dora": True, "modules_to_save": ["lm_head", "norm"]}),
    ("lora", {"dropout": 0.1, "targets": ["q_proj", "*.mlp.*", "head"], "init": "gaussian"}),
    ("nf4", {}),
    ("nf4", {"double_quant": False, "skip": ["down_proj"], "compute": "bf16"}),
    ("int8", {}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda each: each if isinstance(each, str) else None)
def test_every_promise_is_kept(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Every check of the kit passes, or says that it does not apply."""
    (part,) = parts_of(f"llmx:{name}", Registry(), {name: options})
    results = list(run_checks(part, tmp_path))
    assert len(results) >= 10
    assert not [(each.check, each.message) for each in results if each.status == "failed"]
    passed = {each.check for each in results if each.status == "passed"}
    assert {"contract", "cached-decoding", "merge", "resume", "meta-device", "seeded"} <= passed
    assert ("trains" in passed) == (name == "lora")
