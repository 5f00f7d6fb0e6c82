"""`llmx report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page to write; a report that is there is replaced.  [default: RUN/report.html, of several ./report.html]",
)
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Write the loss curves as a picture too.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and differences as JSON; a page only with --out.")
def command(runs: tuple[Path, ...], out: Path | None, png: Path | None, as_json: bool) -> None:
    """Write a page that shows RUN, or compares several: curves, figures, options that differ, samples, versions.

    It is one HTML file that needs no network. A run that is still going can be reported too.

    \b
    llmx report runs/my-run
    llmx report runs/adam runs/muon --out comparison.html --png loss.png
    llmx report runs/* --json
    """
    from llmx.page import encodable
    from llmx.report.files import default_out, read_runs, write_page

    facts = read_runs(runs)
    written = []
    if out is not None or not as_json:
        written.append(write_page(facts, out or default_out(runs)))
    if png is not None:
        from llmx.report.png import write_png

        written.append(write_png(facts, png))
    if as_json:
        from llmx.report.facts import to_json

        click.echo(encodable(to_json(facts)))
        return
    for path in written:
        click.echo(encodable(f"{', '.join(run.name for run in facts)}: {path}"))
