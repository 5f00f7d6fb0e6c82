"""`llmx generate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llmx.errors import RecipeError
from llmx.layers import is_override


@click.command("generate")
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("prompt", metavar="PROMPT")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--chat", is_flag=True, help="Ask PROMPT as a user's message, by the template that trained the model.")
@click.option("--stream", is_flag=True, help="Print the text as it comes.")
@click.option("--sampler", multiple=True, metavar="NAME", help="A link of the sampler chain; again for more, in order.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Most tokens to add.")
@click.option("--device", default="cpu", show_default=True, help='Where to compute: "cpu", "cuda".')
@click.option("--json", "as_json", is_flag=True, help="Print prompt, text, tokens and finish_reason as JSON.")
def command(
    model: Path,
    prompt: str,
    overrides: tuple[str, ...],
    chat: bool,
    stream: bool,
    sampler: tuple[str, ...],
    seed: int | None,
    max_new_tokens: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Continue PROMPT with the model of RUN: a run folder, its model/, or a Hugging Face folder. "-" reads stdin.

    \b
    llmx generate runs/my-run "Once upon a time" --stream
    llmx generate runs/my-run "ROMEO:" --sampler greedy
    llmx generate runs/my-chats "Who are you?" --chat
    llmx generate runs/my-run "The" --sampler top-k sampler.top-k.k=20 --seed 7
    """
    import attrs

    from llmx.api import load

    wrong = [each for each in overrides if not is_override(each)]
    if wrong:
        raise RecipeError(f"{wrong[0]!r}: is no KEY=VALUE; put a prompt of several words in quotes")
    text = prompt
    if prompt == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")  # what is no UTF-8 is told below
    loaded = load(model, sampler=sampler, overrides=overrides, device=device)
    asked = loaded.question(text) if chat else text
    if as_json:
        import json

        done = loaded.complete(asked, max_new_tokens=max_new_tokens, seed=seed)
        click.echo(json.dumps(attrs.asdict(done), ensure_ascii=False))
        return
    pieces = loaded.stream(asked, max_new_tokens=max_new_tokens, seed=seed)
    first = next(pieces, "")  # a prompt that does not fit fails before anything is printed
    click.echo(click.style(text, dim=True), nl=chat)
    if not stream:
        click.echo(first + "".join(pieces))
        return
    click.echo(first, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()
