"""Files that are appended to over many lives of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmx.files import kept_bytes


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        ('{"step": 3}\n', 1),
        ('{"step": 3}', 1),
        ('{"step": 2}', 1),  # whole, but for its end: the next row would be glued to it
        ('{"st', 1),
        ("[3]\n", 1),
        ('{"other": 1}\n', 1),
        ('{"step": 2}\n', 2),
    ],
)
def test_a_resumed_run_keeps_whole_rows_up_to_its_step(tmp_path: Path, tail: str, kept: int) -> None:
    """And none that a kill left half written, or that is no row."""
    rows = ['{"step": 1}\n', tail]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(rows))
    assert kept_bytes(path, 2) == sum(map(len, rows[:kept]))
