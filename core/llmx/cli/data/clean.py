"""`llmx data clean`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmx.data.clean import CleanOptions


@click.command("clean")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--rejects",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the rest goes, with reasons.  [default: rejects.jsonl beside OUT]",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME",
    help="Field that holds text; again for more.  [default: the usual ones]",
)
@click.option("--min-chars", type=int, metavar="N", help="Fewest characters of a record.  [default: 5]")
@click.option("--max-chars", type=int, metavar="N", help="Most characters of a record.  [default: 1000000]")
@click.option(
    "--near",
    type=float,
    metavar="SHARE",
    help="Common shingles of near duplicates; 0 finds exact ones only.  [default: 0.8]",
)
@click.option("--shingle", type=int, metavar="N", help="Words, or Chinese characters, of a shingle.  [default: 3]")
@click.option(
    "--encoding", metavar="NAME", help="Encoding of all files.  [default: told where it is certain, or UTF-8]"
)
@click.option(
    "--separator",
    metavar="TEXT",
    help="What separates the texts of a .txt file; \\n is a line end.  [default: a file is one text]",
)
@click.option("--normal-form", type=click.Choice(["NFC", "NFKC", "none"]), help="Unicode normal form.  [default: NFC]")
@click.option("--keep-control", is_flag=True, help="Leave control characters in.")
@click.option("--keep-whitespace", is_flag=True, help="Leave white space at the ends of lines and texts.")
@click.option("--dry-run", is_flag=True, help="Count, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    inputs: tuple[str, ...], out: Path, rejects: Path | None, dry_run: bool, as_json: bool, **given: object
) -> None:
    """Write the records of IN that are whole, long enough and not double to OUT, a new .jsonl file.

    IN are files, folders or patterns of .jsonl, .json and .txt, also packed as .gz or .zst. Chats stay chats: only
    their texts are changed, and other fields are kept; those without an answer, or with roles that none knows, go.
    What is rejected goes to rejects.jsonl with its file, line and reason. The same command goes on where it was
    stopped.

    \b
    llmx data clean raw.jsonl clean.jsonl
    llmx data clean 'crawl/*.jsonl.gz' books/ clean.jsonl --min-chars 200 --near 0.7
    llmx data clean novel.txt clean.jsonl --separator '\\n\\n' --dry-run
    """
    import json

    from llmx.data.clean import clean
    from llmx.progress import progress

    options = _options(given)
    with progress("Cleaning", "records") as report:
        tally = clean(inputs, out, options, rejects=rejects, dry_run=dry_run, report=report)
    if as_json:
        click.echo(json.dumps({**tally.to_json(), "characters": tally.lengths.summary()}, ensure_ascii=False))
        return
    click.echo(tally.text())
    if not dry_run:
        click.echo(f"\n{out}: {tally.kept:,} records")
        if tally.rejected:
            click.echo(f"{rejects or out.with_name('rejects.jsonl')}: the others, with reasons")


def _options(given: dict[str, object]) -> CleanOptions:
    """Return the options that were given on the command line, over the defaults.

    Raises:
        RecipeError: one is out of its range.
    """
    from llmx.data.clean import CleanOptions
    from llmx.errors import RecipeError

    values = {key: value for key, value in given.items() if value not in (None, ()) and not key.startswith("keep_")}
    if isinstance(separator := values.get("separator"), str):
        values["separator"] = separator.replace("\\n", "\n").replace("\\t", "\t")
    for name in ("control", "whitespace"):
        values[name] = not given[f"keep_{name}"]
    try:
        return CleanOptions(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise RecipeError(f"llmx data clean: {error.args[0]}") from None
