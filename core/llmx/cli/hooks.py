"""`llmx hooks`."""

from __future__ import annotations

import click


@click.command("hooks")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the hooks of llmx, or show one: its arguments, when it fires, what may be changed, what an exception does.

    \b
    llmx hooks
    llmx hooks llmx_after_step
    """
    import inspect

    from llmx import hookspecs
    from llmx.component import KINDS
    from llmx.errors import RecipeError

    offers = {f"llmx_{kind}s" for kind in KINDS}
    found = {key: each for key, each in vars(hookspecs).items() if hasattr(each, "llmx_spec")}
    if name is not None and name not in found:
        import difflib

        near = difflib.get_close_matches(name, found, n=3)
        hint = f"nearest: {', '.join(near)}" if near else "`llmx hooks` lists them"
        raise RecipeError(f"hooks: {name!r}: no such hook; {hint}")
    rows = [
        {
            "name": key,
            "family": "offer" if key in offers else "event",
            "arguments": list(inspect.signature(function).parameters),
            "contract": inspect.getdoc(function) or "",
        }
        for key, function in found.items()
        if name in (None, key)
    ]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for family, title in (("offer", "What a plugin offers"), ("event", "What a run announces, in a hooks file too")):
        listed = [row for row in rows if row["family"] == family]
        if listed and name is None:
            click.echo(click.style(f"{title}\n", bold=True))
        for row in listed:
            click.echo(click.style(f"{row['name']}({', '.join(row['arguments'])})", bold=True))
            click.echo("".join(f"    {line}".rstrip() + "\n" for line in str(row["contract"]).splitlines()))
