"""`llmx generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from llmx.cli.models import load_model, model_options
from llmx.errors import RecipeError
from llmx.layers import is_override
from llmx.terminal import printable

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel
    from llmx.generate.prompt_file import Asked
    from llmx.generate.request import Answer, Request


@click.command("generate")
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("prompt", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--chat", is_flag=True, help="Ask PROMPT as a user's message, by the template that trained the model.")
@click.option("--stream", is_flag=True, help="Print the text as it comes.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help='Answer a file instead, in JSON lines: a prompt on each line, or .jsonl (.json: a list) with "prompt" or '
    '"messages" in each. "-" reads stdin, as JSON lines where its first line is an object.',
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the answers to --prompts go; by default stdout.")
@click.option("--sampler", multiple=True, metavar="NAME", help="A link of the sampler chain; again for more, in order.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="What the logits are divided by; 0 takes the best token always. By default as the chain has it.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Most tokens to add.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; again for more.")
@click.option(
    "--n", "count", type=click.IntRange(1, 1024), default=1, show_default=True, help="Answers to each prompt."
)
@click.option(
    "--logprobs", type=click.IntRange(0, 100), metavar="N", help="With JSON: log-probabilities, and N others."
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the step first: faster for a small model.")
@click.option("--json", "as_json", is_flag=True, help="Print prompt, text, tokens and finish_reason as JSON.")
@model_options
def command(
    model: Path,
    prompt: str | None,
    overrides: tuple[str, ...],
    chat: bool,
    stream: bool,
    prompts: Path | None,
    out: Path | None,
    sampler: tuple[str, ...],
    seed: int | None,
    temperature: float | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    count: int,
    logprobs: int | None,
    compiled: bool,
    as_json: bool,
    device: str,
    weights: str | None,
    adapter: str | None,
) -> None:
    """Continue PROMPT with the model of RUN: a run folder, its model/, or a Hugging Face folder. "-" reads stdin.

    \b
    llmx generate runs/my-run "Once upon a time" --stream
    llmx generate runs/my-run "ROMEO:" --sampler greedy
    llmx generate runs/my-chats "Who are you?" --chat
    llmx generate runs/my-run "The" --sampler top-k sampler.top-k.k=20 --seed 7
    llmx generate runs/my-chats --prompts questions.jsonl --out answers.jsonl
    """
    if prompts is not None and prompt is not None and is_override(prompt):
        overrides = (prompt, *overrides)
        prompt = None
    _check(prompt, prompts, stop, stream=stream, json=as_json or prompts is not None, logprobs=logprobs)
    _check_out(out, prompts)
    asked = None if prompts is None else _read(prompts, chat)  # before the model: a bad line is told at once
    weights = weights or (None if prompts is None else "stored")  # packing pays where much is generated
    loaded, name = load_model(
        model,
        device=device,
        weights=weights,
        adapter=adapter,
        compiled=compiled,
        sampler=sampler,
        overrides=overrides,
    )
    fields: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "logprobs": logprobs, "model": name}
    if temperature is not None:
        from llmx.generate.chains import at_temperature

        fields["chain"] = loaded.chain_of(at_temperature(loaded.links, temperature))
    if asked is not None:
        _answer_file(loaded, asked, count, out, seed=seed, **fields)
        return
    # what is no UTF-8 is told where it is encoded
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else str(prompt)
    question = loaded.question(text) if chat else text
    requests = [loaded.request(question, seed=seed, number=number, **fields) for number in range(count)]
    engine = loaded.new_engine(most_waiting=count)
    answers = [engine.submit(each) for each in requests]
    for answer in answers:
        if as_json:
            _print_json(answer, {"prompt": text})
        else:
            _print_text(answer, text, stream=stream, chat=chat)
    if not as_json:
        _tell_of_full_context(answers)


def _check(
    prompt: str | None,
    prompts: Path | None,
    stop: Sequence[str],
    *,
    stream: bool,
    json: bool,
    logprobs: int | None,
) -> None:
    if (prompt is None) == (prompts is None):
        both = "one of them is enough" if prompts else "give a PROMPT, or a file of them with --prompts"
        raise RecipeError(f"PROMPT and --prompts: {both}" if prompts else f"prompt: there is none: {both}")
    if stream and json:
        raise RecipeError("--stream: is for text, and JSON is written whole: leave one of them out")
    if logprobs is not None and not json:
        raise RecipeError("--logprobs: are told in JSON only: add --json")
    if "" in stop:
        raise RecipeError("--stop: is empty, and stands everywhere: give some text")


def _check_out(out: Path | None, prompts: Path | None) -> None:
    if out is None:
        return
    if prompts is None:
        raise RecipeError("--out: is for the answers to --prompts: leave it out, or write > FILE")
    if out.exists():
        raise RecipeError(f"{out}: exists already: give another --out")
    if not out.parent.is_dir():
        raise RecipeError(f"{out}: there is no folder {out.parent}: make it, or give another --out")


def _read(path: Path, chat: bool) -> list[Asked]:
    from llmx.generate.prompt_file import read_prompts

    return read_prompts(path, chat=chat)


@contextmanager
def _sink(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    with out.open("x", encoding="utf-8") as file:
        yield file


# --- one prompt -----------------------------------------------------------------------------------------------------


def _print_text(answer: Answer, prompt: str, *, stream: bool, chat: bool) -> None:
    """Print the prompt and the text after it; what came before an interrupt is shown too.

    On a terminal the prompt is dimmed, and nothing of either steers it; elsewhere both are as they are.
    """
    terminal = sys.stdout.isatty()

    def show(text: str, nl: bool = False) -> None:
        click.echo(printable(text) if terminal else text, nl=nl, color=True)

    pieces = iter(answer)
    first = next(pieces, None)  # what goes wrong at once does so before anything is printed
    click.echo(click.style(printable(prompt), dim=True) if terminal else prompt, nl=chat, color=True)
    shown = 0
    try:
        if stream and first is not None:
            show(first.text)
            shown = len(first.text)
        for token in pieces:
            if stream and token.text:
                show(token.text)
                shown += len(token.text)
                sys.stdout.flush()
    finally:
        show(answer.text[shown:], nl=True)


def _tell_of_full_context(answers: Sequence[Answer]) -> None:
    """Tell, of the first one, that an answer is shorter than was asked for because the context is full."""
    for each in answers:
        added, most = len(each.tokens), each.request.max_new_tokens
        if each.finish_reason == "length" and most is not None and added < most:
            context = each.prompt_tokens + added
            click.echo(f"llmx: the context of {context:,} tokens is full: {added:,} of {most:,} were added", err=True)
            return


def _print_json(answer: Answer, row: dict[str, Any]) -> None:
    try:
        answer.wait()
    finally:
        click.echo(_row(answer, row))


def _row(answer: Answer, row: dict[str, Any]) -> str:
    """Return an answer as a line of JSON, beside what it was asked with."""
    import orjson

    found = {
        **row,
        "text": answer.text,
        "tokens": len(answer.tokens),
        "finish_reason": answer.finish_reason or "cancelled",
    }
    if answer.request.logprobs is not None:
        found["logprobs"] = [
            {"id": token.id, "text": token.text, "logprob": token.logprob, "top": token.top} for token in answer.tokens
        ]
    return orjson.dumps(found).decode()


# --- a file of them -------------------------------------------------------------------------------------------------


def _answer_file(loaded: LanguageModel, asked: Sequence[Asked], count: int, out: Path | None, **fields: Any) -> None:
    from llmx.generate.prompt_file import requests_of

    requests = requests_of(loaded, asked, count, **fields)  # before the file is made
    rows = [{**each.row, **({} if count == 1 else {"sample": n})} for each in asked for n in range(count)]
    with _sink(out) as file:
        _answer_all(loaded, requests, rows, file)
    if out is not None:
        written = len(asked) * count
        click.echo(f"llmx: {written:,} {'answer' if written == 1 else 'answers'} in {out}", err=True)


def _answer_all(
    loaded: LanguageModel, requests: Sequence[Request], rows: Sequence[dict[str, Any]], file: TextIO
) -> None:
    """Write a line for each answer, in the order of the prompts and as soon as that allows."""
    from llmx.generate.prompt_file import in_order
    from llmx.progress import progress

    with progress("Answering", "answers") as report:
        answers = in_order(loaded.new_engine(), requests)
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True), 1):
            file.write(_row(answer, row) + "\n")
            file.flush()
            report(number)
