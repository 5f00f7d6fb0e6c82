"""`llmx plugins check`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmx.testing.frame import Result

MARKS = {"passed": ("ok", "green"), "failed": ("FAILED", "red"), "skipped": ("-", None)}


@click.command("check")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[OPTION=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance suite on every part that NAME stands for: a part, a plugin or a distribution.

    Options of a part whose defaults do not suffice are given as they are in a recipe, with the part's name before
    them where there are several, and its kind before that where parts of two kinds share it. A logger with a mode
    "offline" is checked in it, if no other is given: runs of the checks are for no account. Ends with 1 if a check
    fails.

    \b
    llmx plugins check lion
    llmx plugins check tinyllm preset=nano
    llmx plugins check llmx-shop tokenizer-x.vocab_size=500 model.shop.layers=2
    """
    from llmx.registry import Registry
    from llmx.testing.frame import parts_of

    registry = Registry()
    parts = parts_of(name, registry, _options(name, overrides))
    for plugin in {part.offer.plugin.name: part.offer.plugin for part in parts}.values():
        if plugin.warning:
            click.echo(f"llmx: plugin {plugin.name} of {plugin.distribution} {plugin.warning}", err=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, part in enumerate(parts):
            found = _checked(part, Path(scratch, str(number)), shown=not as_json)
            results.extend(found)
    failed = [result for result in results if result.status == "failed"]
    if as_json:
        import json

        import attrs

        click.echo(json.dumps([attrs.asdict(result) for result in results], indent=1, ensure_ascii=False))
    else:
        passed = sum(result.status == "passed" for result in results)
        click.echo(f"\n{passed} passed, {len(failed)} failed, {len(results) - passed - len(failed)} do not apply")
    if failed:
        sys.exit(1)


def _checked(part: Any, scratch: Path, *, shown: bool) -> Iterator[Result]:
    """Yield the results of a part, printing each as it comes."""
    from llmx.testing.frame import run_checks, suite

    width = max(len(check.name) for check in suite(part.kind))
    before = ""
    if shown:
        click.echo(click.style(f"{part.kind} {part.offer.qualified} {part.offer.plugin.version}", bold=True))
    for result in run_checks(part, scratch):
        if shown:
            mark, colour = MARKS[result.status]
            click.echo(f"  {click.style(mark.ljust(6), fg=colour)}  {result.check.ljust(width)}  {result.promise}")
            again = bool(result.message) and result.message == before
            before = result.message
            for line in ["the same"] if again else result.message.splitlines():
                click.echo(f"  {'':6}  {'':{width}}  {click.style(line, fg=colour)}")
        yield result


def _options(name: str, overrides: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the given options by part name.

    Raises:
        RecipeError: one is no OPTION=VALUE.
    """
    from llmx.errors import RecipeError
    from llmx.layers import is_override, scalar

    options: dict[str, dict[str, Any]] = {}
    for each in overrides:
        if not is_override(each):
            raise RecipeError(f"{each!r}: is no OPTION=VALUE")
        key, _, value = each.partition("=")
        part, _, option = key.rpartition(".")
        options.setdefault(part or name.rpartition(":")[2], {})[option] = scalar(value)
    return options
