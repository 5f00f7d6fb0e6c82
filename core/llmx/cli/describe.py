"""`llmx describe`."""

from __future__ import annotations

import click


@click.command("describe")
@click.argument("kind")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(kind: str, name: str | None, as_json: bool) -> None:
    """Show the options of a part with type, default, unit and meaning.

    \b
    llmx describe optimizer adamw
    llmx describe train               a section of the recipe that is no part
    """
    import attrs

    from llmx.component import KINDS
    from llmx.errors import RecipeError
    from llmx.options import OptionDoc, describe
    from llmx.registry import Registry
    from llmx.sections import CORE_SECTIONS, DataOptions, ModelSource

    sections = {**CORE_SECTIONS, "data": DataOptions, "model": ModelSource}
    title, options, target = kind, sections.get(kind), ""
    if options is None or name is not None:
        kind = "dataset" if kind == "data" else kind
        if kind == "scheduler.groups":
            raise RecipeError(f"{kind}: each group has a scheduler of its own: llmx describe scheduler NAME")
        if kind not in KINDS:
            raise RecipeError(f"{kind!r}: is neither a kind ({', '.join(KINDS)}) nor a section ({', '.join(sections)})")
        registry = Registry()
        if name is None:
            offered = ", ".join(offer.component.name for offer in registry.offers(kind))
            raise RecipeError(f"describe {kind}: which one? {offered}")
        offer = registry.find(kind, name, f"describe {kind}")
        title = f"{kind} {offer.component.name}, from {offer.plugin.distribution} {offer.plugin.version}"
        options, target = offer.component.options, offer.component.summary
    docs: list[OptionDoc] = describe(options)
    if as_json:
        import json

        click.echo(json.dumps([attrs.asdict(doc) for doc in docs], indent=1, ensure_ascii=False))
        return
    click.echo(f"{title}: {target}" if target else title)
    for doc in docs:
        unit = f" [{doc.unit}]" if doc.unit else ""
        click.echo(f"\n  {click.style(doc.name, bold=True)} = {doc.default}   {doc.type}{unit}")
        for line in doc.meaning.splitlines():
            click.echo(f"      {line}")
    if not docs:
        click.echo("\n  It takes no options.")
