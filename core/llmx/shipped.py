"""The file of llmx's own catalogue, for what must not import more than it needs."""

from __future__ import annotations

from pathlib import Path


def shipped_path() -> Path:
    """Return where llmx's own `registry.toml` is: beside this file in a wheel, at the top level in a checkout."""
    here = Path(__file__).resolve()
    beside = here.with_name("registry.toml")
    return beside if beside.exists() else here.parents[2] / "registry.toml"


def shipped_commands() -> dict[str, str]:
    """Return what the file says of the commands that plugins add, by name."""
    import tomllib

    entries = tomllib.loads(shipped_path().read_text(encoding="utf-8"))["plugin"]
    return {name: entry["summary"] for entry in entries for name in entry.get("commands", ())}
