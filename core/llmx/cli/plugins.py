"""`llmx plugins`."""

from __future__ import annotations

import click


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--kind", help="Only parts of one kind.")
@click.option("--tracebacks", is_flag=True, help="Show why each broken plugin did not load.")
def command(as_json: bool, kind: str | None, tracebacks: bool) -> None:
    """List the parts that the installed plugins offer: kind, name, distribution, version, status."""
    from llmx.component import KINDS
    from llmx.errors import RecipeError
    from llmx.registry import Registry

    if kind is not None and kind not in KINDS:
        raise RecipeError(f"--kind {kind}: no such kind; kinds: {', '.join(KINDS)}")
    registry = Registry()
    rows = [
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
    failed = [plugin for plugin in registry.plugins if plugin.status != "ok"]
    rows += [
        {
            "kind": "-",
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "plugin": plugin.name,
            "summary": plugin.error,
        }
        for plugin in failed
    ]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    columns = ("kind", "name", "distribution", "version", "status", "summary")
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns[:-1]]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        cells = [row[column].ljust(width) for column, width in zip(columns, widths, strict=False)]
        click.echo("  ".join([*cells, row["summary"]]).rstrip())
    for plugin in failed if tracebacks else ():
        click.echo(f"\n{plugin.name} of {plugin.distribution} ({plugin.module}):\n{plugin.traceback}")
