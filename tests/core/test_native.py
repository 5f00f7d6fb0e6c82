"""What the command line sets for the libraries under torch, and what the user set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOWN = """
import os, sys
from llmx.cli import main
try:
    main(["--version"])
finally:
    assert "torch" not in sys.modules
    print(*(os.environ.get(each) for each in ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")))
"""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "1000 32"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None 32"),
        ({"GOMP_SPINCOUNT": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"}, "7 9"),
    ],
)
def test_only_what_is_unset_is_set(given: dict[str, str], wanted: str) -> None:
    """Before torch is loaded, which reads it once."""
    known = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    clean = {name: value for name, value in os.environ.items() if name not in known}
    command = [sys.executable, "-c", SHOWN]
    done = subprocess.run(command, env={**clean, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == wanted
