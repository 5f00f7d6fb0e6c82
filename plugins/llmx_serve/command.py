"""`llmx serve`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.errors import MissingPackageError, RecipeError
from llmx.named import split_adapters, split_named

if TYPE_CHECKING:
    from llmx_serve.models import Models

KEY = "LLMX_API_KEY"
SENT = re.compile(r"[!-~]+")


@click.command("serve")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--name", help="What requests call the model of RUN.  [default: the folder's name]")
@click.option("--model", "others", multiple=True, metavar="NAME=RUN", help="A further model; again for more.")
@click.option(
    "--adapter", "adapters", multiple=True, metavar="[NAME=]FOLDER", help="An adapter over RUN, a model of its own."
)
@click.option("--weights", type=click.Choice(["bf16", "int8", "int4"]), help="Hold the weights in this form.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the step first: faster for a small model.")
@click.option("--device", default="cpu", show_default=True, help='Where to compute: "cpu", "cuda".')
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key", metavar="KEY", help=f"What requests must carry; better in {KEY}, where others cannot see it."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that a proxy calls the server by.")
@click.option("--slots", type=click.IntRange(1), default=16, show_default=True, help="Sequences computed at once.")
@click.option("--waiting", type=click.IntRange(0), default=64, show_default=True, help="Requests that may wait.")
@click.option("--max-tokens", type=click.IntRange(1), help="Most tokens of an answer.  [default: the context]")
@click.option("--max-body-bytes", type=click.IntRange(1), default=2**22, show_default=True, help="Of a request.")
@click.option("--max-choices", type=click.IntRange(1), default=16, show_default=True, help="Answers to a request.")
@click.option("--drain-s", type=click.FloatRange(0), default=30.0, show_default=True, help="Time to end in, seconds.")
def command(run: Path, **given: Any) -> None:
    """Serve the model of RUN, a run folder or a Hugging Face folder, as OpenAI's API, with a page to chat at /.

    \b
    llmx serve runs/my-chats
    llmx serve runs/my-chats --name tutor --model plain=runs/shakespeare --port 9000
    LLMX_API_KEY=... llmx serve runs/my-chats --host 0.0.0.0
    """
    try:
        from llmx_serve.gate import Rules
        from llmx_serve.limits import Limits
        from llmx_serve.serving import Place, serve
    except ModuleNotFoundError as error:
        if error.name in ("starlette", "uvicorn", "prometheus_client"):
            text = f"llmx serve needs the package {error.name!r}: pip install 'llmx[serve]'"
            raise MissingPackageError(text, str(error.name)) from error
        raise
    rules = Rules(_key(given["api_key"]), given["allow_host"])
    place = Place(given["host"], given["port"], rules, given["drain_s"])
    place.bind().close()  # before a model is loaded, which may take minutes
    limits = Limits(max_tokens=given["max_tokens"], body_bytes=given["max_body_bytes"], choices=given["max_choices"])
    models = load_models(run, given)

    def ready(address: str) -> None:
        sys.stderr.write(f"llmx serve: {', '.join(models.by_name)} at {address}\n")
        sys.stderr.flush()

    serve(models, place, limits, ready)


def load_models(run: Path, given: dict[str, Any]) -> Models:
    """Load every model of the command line, and start their engines.

    Raises:
        LlmxError: a folder cannot be loaded, or two models have one name.
    """
    import llmx
    from llmx_serve.models import Base, Models, Served

    adapters = split_adapters(given["adapters"])
    folders = [(given["name"] or _name_of(run), run), *(split_named(each, "--model") for each in given["others"])]
    names = [name for name, _ in folders] + list(adapters)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two models are called {twice!r}: give other names with --name, --model, --adapter")
    served = []
    for number, (name, folder) in enumerate(folders):
        more: dict[str, Any] = {"adapters": adapters} if adapters and number == 0 else {}
        more |= {"weights": given["weights"] or "stored", "compile": given["compiled"]}
        if given["overrides"]:
            more["overrides"] = given["overrides"]
        model = llmx.load(folder, device=given["device"], **more)
        base = Base.start(model, slots=given["slots"], most_waiting=given["waiting"])
        served.append(Served(name, base))
        served += [Served(each, base, each) for each in (adapters if number == 0 else ())]
    return Models(served)


def _key(given: str | None) -> str | None:
    """Return the key of the option or else of the environment; it is told in no message."""
    where, key = ("--api-key", given) if given else (KEY, os.environ.get(KEY))
    if key and not SENT.fullmatch(key):
        raise RecipeError(f"{where}: must be ASCII letters, digits and signs without spaces: no header carries others")
    return key or None


def _name_of(run: Path) -> str:
    """Return the name of a run's folder, also where its `model/` is given."""
    path = run.resolve()
    return (path.parent if path.name == "model" else path).name or "model"
