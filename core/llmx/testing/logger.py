"""What a logger promises: it changes nothing, records each step once, and a lost sink stops no run."""

from __future__ import annotations

import csv
import io
import json
import math
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from llmx.errors import LlmxError
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.listeners import (
    building_it_does_nothing,
    close_files,
    fails_before_it_began,
    leaves_nothing_open,
    listens,
    state_round_trip,
    trained_alike,
)
from llmx.testing.samples import contents
from llmx.testing.tiny import STEPS, killed_and_resumed, random_states, small_run
from llmx.train.export import SAMPLES

LOST_FROM = 2
"""Update from which on the sink is gone."""


def changes_nothing(subject: Subject) -> None:
    """A run ends bitwise the same with it and without it; it draws nothing and leaves the metrics as they are."""
    bare, small = (small_run(part, subject.scratch / name) for part, name in ((None, "bare"), (subject.part, "run")))

    @contextmanager
    def around(event: str, arguments: Mapping[str, Any]) -> Iterator[None]:
        metrics, before = dict(arguments.get("metrics", {})), random_states()
        yield
        assert random_states() == before, f"{event} draws from a global generator: the run would train otherwise"
        after = arguments.get("metrics", {})
        changed = sorted(name for name in metrics.keys() | after.keys() if metrics.get(name) != after.get(name))
        assert not changed, f"{event} changes the metric {changed[0]!r}, which other listeners read"

    bare.train()
    small.train(around)
    trained_alike(bare, small, "with it")


def takes_any_number(subject: Subject) -> None:
    """It takes metrics that are NaN or infinite, and those that a callback has added."""
    small = small_run(subject.part, subject.scratch / "run", train={"steps": 2})
    odd = {"my/count": 3, "my/nan": math.nan, "my/inf": math.inf, "my/minus": -math.inf, "my/huge": 1e300}

    @contextmanager
    def around(event: str, arguments: Mapping[str, Any]) -> Iterator[None]:
        if "metrics" in arguments:
            arguments["metrics"].update(odd)
            arguments["metrics"].update({"grad_norm": math.inf} if event == "llmx_after_step" else {})
        yield

    small.train(around)


def survives_a_lost_sink(subject: Subject) -> None:
    """A sink that fails once the run has begun, a full disk or a lost network, does not stop the run."""
    try:
        train_without_sink(subject)
    except LlmxError as error:
        text = f"from update {LOST_FROM} on no file could grow and no connection be made, and the run ended"
        raise AssertionError(f"{text}: {error}") from error
    finally:
        close_files(subject.scratch)


def records_each_step_once(subject: Subject) -> None:
    """A run that was killed and resumed has each step once in its files, as if it never had been killed."""
    whole, killed = killed_and_resumed(subject.part, subject.scratch)
    assert killed is not None, f"the run ended after update {whole.run.state.step} of {STEPS}"
    trained_alike(whole, killed, "killed and resumed")
    files, found = rows_by_step(whole.folder), rows_by_step(killed.folder)
    if not files:
        raise NotApplicable("it writes no JSON lines or CSV with a step into the run folder")
    for name, rows in files.items():
        after = found.get(name, Counter())
        twice, missing = sorted((after - rows).elements()), sorted((rows - after).elements())
        assert not twice, f"{name}: killed and resumed, step {twice[0][0]:g} is there once too often"
        assert not missing, f"{name}: killed and resumed, step {missing[0][0]:g} is missing"


CHECKS = (
    building_it_does_nothing,
    listens,
    changes_nothing,
    takes_any_number,
    survives_a_lost_sink,
    records_each_step_once,
    state_round_trip,
    fails_before_it_began,
    leaves_nothing_open,
)


# --- what the checks share ------------------------------------------------------------------------------------------


def train_without_sink(subject: Subject) -> None:
    """Train to the end with the sink gone after a few updates."""
    small = small_run(subject.part, subject.scratch / "run")

    @contextmanager
    def around(_: str, __: Mapping[str, Any]) -> Iterator[None]:
        with lost_sink() if small.run.state.step >= LOST_FROM else nullcontext():
            yield

    small.train(around)
    assert small.run.state.step == STEPS, f"the run ended after update {small.run.state.step} of {STEPS}"


@contextmanager
def lost_sink() -> Iterator[None]:
    """Let no file of this process grow and no connection be made, as on a full disk without a network."""
    try:
        import resource
    except ImportError as error:
        raise NotApplicable("this system cannot make a disk look full") from error
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with mock.patch.multiple(socket.socket, connect=unreachable, sendall=unreachable):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def unreachable(*_: Any, **__: Any) -> NoReturn:
    """Fail as a network that is gone."""
    raise OSError("the network is unreachable: the check cut it")


def rows_by_step(folder: Path) -> dict[str, Counter[tuple[float, tuple[str, ...]]]]:
    """Return how often each pair of a step and names of metrics is in the files that have rows with a step."""
    found = {}
    for name, content in contents(folder).items():
        if name == SAMPLES:  # llmx's own
            continue
        try:
            rows = json_rows(content) if name.endswith("l") else csv_rows(content)
        except ValueError:
            continue
        steps = [(float(row["step"]), tuple(sorted(row))) for row in rows if "step" in row]
        if steps and len(steps) == len(rows):
            found[name] = Counter(steps)
    return found


def json_rows(content: bytes) -> list[dict[str, Any]]:
    """Read JSON lines; a line that is none, or no object, is a ValueError."""
    rows = [json.loads(line) for line in content.decode("utf-8").splitlines()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not objects")
    return rows


def csv_rows(content: bytes) -> list[dict[str, Any]]:
    """Read a table with a head; the names of a row are those of its filled cells."""
    table = csv.DictReader(io.StringIO(content.decode("utf-8")))
    return [{key: value for key, value in row.items() if value} for row in table]
