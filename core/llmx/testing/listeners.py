"""What loggers and callbacks promise alike: they listen, they resume, they let go."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmx.errors import LlmxError
from llmx.hookspecs import hookimpl
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.samples import contents
from llmx.testing.tiny import SmallRun, copies, small_run, surroundings, unequal_weights
from llmx.train.tree import pack, unpack


def building_it_does_nothing(subject: Subject) -> None:
    """Building it writes no file and changes no weight: the run folder is not made yet, and a dry run ends here."""
    bare = small_run(None, subject.scratch / "bare")
    before, weights = contents(subject.scratch), copies(bare.run.weights())
    small = small_run(subject.part, subject.scratch / "run")
    assert not small.folder.exists(), "it made the run folder, which llmx makes when the run begins"
    written = sorted(contents(subject.scratch).keys() - before.keys())
    assert not written, f"it wrote {written[0]}"
    changed = unequal_weights(weights, small.run.weights())
    assert changed is None, f"it changed the weights of {changed}"


def listens(subject: Subject) -> None:
    """It implements at least one announcement, and every method that is called like one is marked as one."""
    listener = small_run(subject.part, subject.scratch / "run").listener
    named = {name for name, each in inspect.getmembers(type(listener), inspect.isroutine) if name.startswith("llmx_")}
    unmarked = sorted(name for name in named if not hasattr(getattr(type(listener), name), "llmx_impl"))
    assert not unmarked, f"{type(listener).__name__}.{unmarked[0]} lacks @llmx.hookimpl, and would never be called"
    heard = [name for name in dir(listener) if hasattr(getattr(listener, name, None), "llmx_impl")]
    assert heard, f"{type(listener).__name__} has no method marked with @llmx.hookimpl: it would never be called"


def state_round_trip(subject: Subject) -> None:
    """Its state goes through a checkpoint: JSON values and tensors, equal when a new one has loaded it."""
    small = small_run(subject.part, subject.scratch / "run")
    has = [hasattr(small.listener, name) for name in ("state_dict", "load_state_dict")]
    if not any(has):
        raise NotApplicable("it has no state")
    assert all(has), f"it has {'state_dict' if has[0] else 'load_state_dict'} alone; a checkpoint needs both"
    small.train()
    state, again = state_of(small), state_of(small)
    fresh = small_run(subject.part, subject.scratch / "fresh")
    fresh.listener.load_state_dict(again)
    found, later = (through_a_checkpoint(fresh.listener.state_dict()) for _ in range(2))
    clocks = differences(found, later, "state")  # what is another each time is no fault
    places = [each for each in differences(state, found, "state") if each not in clocks]
    assert not places, f"{places[0]} is another after state_dict and load_state_dict into a new one"


def fails_before_it_began(subject: Subject) -> None:
    """A run that fails before its first announcement ends with its own error: `llmx_run_failed` may come first."""
    small = small_run(subject.part, subject.scratch / "run")
    with surroundings(small.folder):
        small.folder.mkdir()
        try:
            small.run.hooks.announce("llmx_run_failed", run=small.run, error=RuntimeError("planted by the check"))
        except LlmxError as error:
            raise AssertionError(f"`llmx_run_failed` without `llmx_before_run` before it raises: {error}") from error


def leaves_nothing_open(subject: Subject) -> None:
    """After a run that failed, as after one that ended, no file of the run is open and no thread goes on."""
    if not Path("/proc/self/fd").is_dir():
        raise NotApplicable("this system does not tell which files are open")
    for fails in (False, True):
        threads = set(threading.enumerate())
        small = small_run(subject.part, subject.scratch / ("failing" if fails else "whole"))
        if fails:
            small.run.hooks.register(Failing(), "the check")
        failed = False
        try:
            small.train()
        except LlmxError as error:
            failed = True
            if PLANTED not in str(error):
                raise
        assert failed == fails, "an error of another listener did not end the run"
        after = "a run that failed" if fails else "a run that ended"
        still = open_files(small.folder)
        close_files(small.folder)
        assert not still, f"after {after}, {still[0]} is still open"
        going = [each.name for each in set(threading.enumerate()) - threads if each.is_alive() and not each.daemon]
        assert not going, f"after {after}, its thread {going[0]!r} goes on, and Python waits for it without end"


# --- what the checks share ------------------------------------------------------------------------------------------

PLANTED = "planted by the check"


class Failing:
    """A listener that fails at the second update."""

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        if metrics["step"] == 2:
            raise RuntimeError(PLANTED)


def through_a_checkpoint(state: Any) -> Any:
    """Return what a checkpoint gives back of a state."""
    tensors: dict[str, Tensor] = {}
    try:
        packed = json.loads(json.dumps(pack(state, tensors, "state")))
    except TypeError as error:
        raise AssertionError(str(error)) from error
    return unpack(packed, {name: tensor.clone() for name, tensor in tensors.items()})


def state_of(small: SmallRun) -> Any:
    """Return the listener's state in the newest checkpoint; None where it has none."""
    return next(iter(small.checkpoint()["listeners"].values()), None)


def differences(first: Any, second: Any, path: str) -> list[str]:
    """Return the paths of the values in which two states differ."""
    if type(first) is not type(second):
        return [path]
    if isinstance(first, Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [path]
    if isinstance(first, Mapping):
        if first.keys() != second.keys():
            return [f"{path}.{key}" for key in first.keys() ^ second.keys()]
        return [each for key, value in first.items() for each in differences(value, second[key], f"{path}.{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [path]
        pairs = enumerate(zip(first, second, strict=True))
        return [each for n, (a, b) in pairs for each in differences(a, b, f"{path}.{n}")]
    same = first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))
    return [] if same else [path]


def open_files(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208  # the descriptor of the listing is gone when it is read
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        except OSError:
            continue
    root = str(folder.resolve())
    return sorted(each.removeprefix(root + "/") for each in found if each.startswith(root + "/"))


def close_files(folder: Path) -> None:
    """Close what a part left open below a folder, so that no warning of it comes in another check."""
    root = str(folder)
    for each in gc.get_objects():
        if issubclass(type(each), io.IOBase) and not each.closed and str(getattr(each, "name", "")).startswith(root):
            with contextlib.suppress(OSError):
                each.close()


def trained_alike(first: SmallRun, second: SmallRun, what: str) -> None:
    """Check that two runs ended in the same state, bitwise."""
    one, two = first.run.state, second.run.state
    assert one == two, f"{what}: the run ended with {two}, not {one}"
    other = unequal_weights(first.run.weights(), second.run.weights())
    assert other is None, f"{what}: the weights of {other} are others"
