"""`llmx plugins`: the list; its subcommands are the other modules of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmx.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from llmx.catalogue import KnownPlugin
    from llmx.registry import Registry

COMMANDS = {
    "install": "Install a plugin that the catalogue knows.",
    "check": "Run the conformance suite on a plugin or a part.",
    "new": "Write the project of a new plugin.",
}

COLUMNS = ("kind", "name", "distribution", "version", "status", "summary")

Row = dict[str, str]


@click.group("plugins", cls=LazyGroup, package=__name__, table=COMMANDS, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--kind", help="Only parts of one kind.")
@click.option("--all", "everything", is_flag=True, help="Also what the catalogue knows and is not installed.")
@click.option("--tracebacks", is_flag=True, help="Show why each broken plugin did not load.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, kind: str | None, everything: bool, tracebacks: bool) -> None:
    """List the parts that the installed plugins offer: kind, name, distribution, version, status.

    \b
    llmx plugins --kind optimizer
    llmx plugins --all                           and those that could be installed
    llmx plugins install lion
    llmx plugins check lion
    llmx plugins new llmx-lion --kind optimizer
    """
    if ctx.invoked_subcommand is not None:
        return
    from llmx.catalogue import read_catalogue
    from llmx.component import KINDS
    from llmx.errors import RecipeError
    from llmx.registry import Registry

    if kind is not None and kind not in KINDS:
        raise RecipeError(f"--kind {kind}: no such kind; kinds: {', '.join(KINDS)}")
    registry, catalogue = Registry(), read_catalogue()
    rows = _offered(registry, kind) + _failed(registry)
    if everything:
        rows += _installable(catalogue.entries, kind)
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        print_table(COLUMNS, rows)
    for plugin in registry.plugins if tracebacks else ():
        if plugin.traceback:
            click.echo(f"\n{plugin.name} of {plugin.distribution} ({plugin.module}):\n{plugin.traceback}")
    for plugin in registry.plugins:
        if plugin.warning:
            click.echo(f"llmx: plugin {plugin.name} of {plugin.distribution} {plugin.warning}", err=True)
    for fault in catalogue.faults:
        click.echo(f"llmx: {fault}", err=True)


def print_table(columns: tuple[str, ...], rows: list[Row]) -> None:
    """Print rows under their heads, the last column as long as it is."""
    widths = [max(len(column), *(len(row[column]) for row in rows), 0) for column in columns[:-1]]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        cells = [row[column].ljust(width) for column, width in zip(columns, widths, strict=False)]
        click.echo("  ".join([*cells, row[columns[-1]]]).rstrip())


def _offered(registry: Registry, kind: str | None) -> list[Row]:
    return [
        {
            "kind": offer.kind,
            "name": offer.component.name,
            "distribution": offer.plugin.distribution,
            "version": offer.plugin.version,
            "status": "ok",
            "plugin": offer.plugin.name,
            "summary": offer.component.summary,
        }
        for offer in registry.offers(kind)
    ]


def _failed(registry: Registry) -> list[Row]:
    return [
        {
            "kind": "-",
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "plugin": plugin.name,
            "summary": plugin.error,
        }
        for plugin in registry.plugins
        if plugin.status != "ok"
    ]


def _installable(entries: tuple[KnownPlugin, ...], kind: str | None) -> list[Row]:
    """Return a row for each part that a catalogue knows and whose requirement is not met here."""
    return [
        {
            "kind": each,
            "name": name,
            "distribution": entry.distribution,
            "version": "-",
            "status": "installable",
            "plugin": entry.name,
            "summary": f"{entry.summary} (llmx plugins install {entry.name})",
        }
        for entry in entries
        if entry.lack
        for each, names in entry.provides.items()
        for name in names
        if kind in (None, each)
    ]
