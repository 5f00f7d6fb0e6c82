"""`llmx plugins new`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmx.component import KINDS

if TYPE_CHECKING:
    from llmx.scaffold import Names


@click.command("new")
@click.argument("name")
@click.option("--kind", required=True, help=f"Kind of the part it offers: {', '.join(KINDS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; without it, NAME in this one.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(name: str, kind: str, out: Path | None, as_json: bool) -> None:
    """Write the project of a plugin NAME: a small part that works, with options, tests, README and CI.

    \b
    llmx plugins new llmx-lion --kind optimizer
    llmx plugins new llmx-typical --kind sampler --out ~/src/typical

    The part is called NAME without "llmx-". Nothing is overwritten, and nothing half is left behind.
    """
    from llmx.scaffold import Names, write_project

    names = Names.of(name, kind)
    names.check()
    folder = (out or Path(names.distribution)).expanduser()
    files = write_project(names, folder)
    if as_json:
        import json

        import attrs

        facts = {**attrs.asdict(names), "folder": str(folder), "files": [path.as_posix() for path in files]}
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(_report(names, folder, files)))
    if names.hint:
        click.echo(f"llmx: {names.hint}", err=True)


def _report(names: Names, folder: Path, files: list[Path]) -> list[str]:
    """Return the lines that say what was written and what to do next."""
    import shlex

    place = shlex.quote(str(folder))
    inside = shlex.quote(f"{folder}[test]" if folder.is_absolute() else f"./{folder}[test]")
    return [
        f"Wrote {folder}: the {names.kind} {names.part!r}, which works as it is.",
        *(f"  {path}" for path in files),
        f"\nPut your own formula into {folder / names.package / names.kind}.py, then:",
        f"  pip install -e {inside}",
        f"  pytest {place}",
        f"  llmx plugins check {names.part}",
        f"  llmx describe {names.kind} {names.part}",
    ]
