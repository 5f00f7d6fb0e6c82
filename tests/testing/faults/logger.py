"""Loggers with the mistakes that authors make, and correct ones that are unlike ours."""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
from collections.abc import Mapping
from typing import Any, TextIO

import torch

from llmx import Component, NoOptions, hookimpl
from llmx.assembly import Run


class Rows:
    """Correct: JSON lines in the run folder; a resumed run first takes away the rows after its checkpoint."""

    def __init__(self, _options: NoOptions, run: Run) -> None:
        self.path = run.folder / "rows.jsonl"
        self.file: TextIO | None = None

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= run.state.step]
        self.path.write_text("".join(kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.write(metrics)

    @hookimpl
    def llmx_after_eval(self, metrics: dict[str, float]) -> None:
        self.write(metrics)

    @hookimpl
    def llmx_after_run(self) -> None:
        self.close()

    @hookimpl
    def llmx_run_failed(self) -> None:
        self.close()

    def write(self, metrics: dict[str, float]) -> None:
        with contextlib.suppress(OSError):
            if self.file is not None:
                self.file.write(json.dumps(metrics) + "\n")
                self.file.flush()

    def close(self) -> None:
        file, self.file = self.file, None
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()


# --- faults ---------------------------------------------------------------------------------------------------------


class OpensEarly(Rows):
    """The file is made where the object is: the run folder stands before the run does."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()


class NotesBeside(Rows):
    """A dry run leaves a file of notes beside the run folder."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        (run.folder.parent / "notes.txt").write_text(run.id, encoding="utf-8")


class Unmarked(Rows):
    """One of its methods lacks the mark, and is never called."""

    def llmx_after_export(self, run: Run) -> None:
        self.write({"step": run.state.step})


class Deaf:
    """It waits for a call that no run makes."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        pass

    def log(self, metrics: dict[str, float]) -> None:
        raise AssertionError(metrics)


class DrawsAName(Rows):
    """The name of the run in the tracker is drawn from the global generator."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.name = f"{random.choice(['brave', 'calm'])}-{random.randrange(1000)}"
        super().llmx_before_run(run)


class Histogram(Rows):
    """A sample of the weights is drawn for a histogram, from torch's global generator."""

    @hookimpl
    def llmx_after_eval(self, run: Run, metrics: dict[str, float]) -> None:
        for parameter in run.parameters():
            parameter.detach().flatten()[torch.randint(parameter.numel(), (4,))].mean()
        self.write(metrics)


class TakesTheStep(Rows):
    """The step is taken out of the metrics that all listeners are given."""

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.write({"step": metrics.pop("step"), **metrics})


class Rounds(Rows):
    """Metrics are rounded in place."""

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        metrics.update({name: round(value, 2) for name, value in metrics.items()})
        self.write(metrics)


class ScalesGradients(Rows):
    """Gradients are put on one scale to be compared, in place."""

    @hookimpl
    def llmx_before_update(self, run: Run) -> None:
        for parameter in run.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(parameter.grad.norm() + 1e-6)


class StrictJson(Rows):
    """NaN is no JSON, and a diverging run needs its log most."""

    def write(self, metrics: dict[str, float]) -> None:
        json.dumps(metrics, allow_nan=False)
        super().write(metrics)


class WholeNumbers(Rows):
    """The gradient norm is shown in whole percent, and an infinite one has none."""

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.percent = int(100 * metrics["grad_norm"])
        self.write(metrics)


class KnownOnly(Rows):
    """A metric that a callback has added is an error."""

    names = (
        *("step", "tokens", "epoch", "train/loss", "lr", "grad_norm", "tokens_per_s", "mfu", "memory_bytes"),
        *("val/loss", "val/bits_per_byte"),
    )

    def write(self, metrics: dict[str, float]) -> None:
        super().write({name: value for name, value in metrics.items() if self.names.index(name) >= 0})


class StopsWithTheDisk(Rows):
    """A full disk stops the run at its next row."""

    def write(self, metrics: dict[str, float]) -> None:
        assert self.file is not None
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()


class FailsToClose(Rows):
    """Rows are held back, and the disk is found full when the file is closed."""

    def write(self, metrics: dict[str, float]) -> None:
        if self.file is not None:
            self.file.write(json.dumps(metrics) + "\n")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class AppendsOnly(Rows):
    """A resumed run appends to what is there: steps after the checkpoint are there twice."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.file = self.path.open("a", encoding="utf-8")


class StartsAnew(Rows):
    """A resumed run begins a new file over the old one."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.file = self.path.open("w", encoding="utf-8")


class OneTooMany(Rows):
    """The row of the checkpoint's own step is taken away too."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        super().llmx_before_run(run)
        self.close()
        rows = [
            row
            for row in self.path.read_text(encoding="utf-8").splitlines()
            if json.loads(row)["step"] < run.state.step
        ]
        self.path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")


class HeldBack(Rows):
    """Rows are written when the run ends: those before a kill are gone, and the checkpoint has none of them."""

    def write(self, metrics: dict[str, float]) -> None:
        self.held = [*getattr(self, "held", []), json.dumps(metrics) + "\n"]

    def close(self) -> None:
        if self.file is not None:
            self.file.writelines(getattr(self, "held", []))
        super().close()


class SetInState(Rows):
    """The steps that were seen are a set, which no checkpoint takes."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        self.seen: Any = set()

    def write(self, metrics: dict[str, float]) -> None:
        self.seen.add(metrics["step"])
        super().write(metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


class SavesOnly(Rows):
    """It has state_dict, and nothing that loads it."""

    def state_dict(self) -> dict[str, Any]:
        return {"path": str(self.path)}


class ForgetsARow(SetInState):
    """The newest step is lost between state_dict and load_state_dict."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": sorted(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = set(state["seen"][:-1])


class ClosesWhatIsNotOpen(Rows):
    """The end of a run closes a file that may never have been opened."""

    @hookimpl
    def llmx_run_failed(self) -> None:
        self.file.close()


class LeavesItOpen(Rows):
    """The file is closed when a run ends, and not when it fails."""

    @hookimpl
    def llmx_run_failed(self) -> None:
        pass


class Thread(Rows):
    """A thread that sends rows is told to end when the run ends, and not when it fails."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        super().llmx_before_run(run)
        self.done = threading.Event()
        threading.Thread(target=self.done.wait, args=(20.0,), name="sender").start()

    @hookimpl
    def llmx_after_run(self) -> None:
        self.done.set()
        super().llmx_after_run()


# --- correct, but unlike ours ---------------------------------------------------------------------------------------


class Table(Rows):
    """Correct: a table with a head, evaluations in a table of their own, written by a thread that ends with the run."""

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.path = run.folder / "steps.csv"
        rows = self.path.read_text(encoding="utf-8").splitlines()[1:] if self.path.exists() else []
        kept = [row for row in rows if float(row.partition(",")[0]) <= run.state.step]
        self.path.write_text("".join(f"{row}\n" for row in ["step,train/loss", *kept]), encoding="utf-8")

    def write(self, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            thread = threading.Thread(target=self.append, args=(f"{metrics['step']},{metrics['train/loss']}\n",))
            thread.start()
            thread.join()

    def append(self, row: str) -> None:
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(row)


class InMemory:
    """Correct: the state holds all rows, an evaluation's too, with a row that has no number."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        self.rows: list[dict[str, float]] = []

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.rows.append({**metrics, "none": math.nan})

    @hookimpl(wrapper=True)
    def llmx_after_eval(self, metrics: dict[str, float]) -> Any:
        result = yield
        self.rows.append(dict(metrics))
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "last": (len(self.rows), None), "mean": torch.ones(2, dtype=torch.bfloat16)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = list(state["rows"])


def planted(target: type) -> Component:
    """Return the component of a class of this file."""
    name = "".join(f"-{each.lower()}" if each.isupper() else each for each in target.__name__).strip("-")
    summary = (target.__doc__ or "").partition("\n")[0]
    return Component(name=name, target=f"llmx_faults_logger:{target.__name__}", summary=summary)


BROKEN = {
    "building-it-does-nothing": (OpensEarly, NotesBeside),
    "listens": (Unmarked, Deaf),
    "changes-nothing": (DrawsAName, Histogram, TakesTheStep, Rounds, ScalesGradients),
    "takes-any-number": (StrictJson, WholeNumbers, KnownOnly),
    "survives-a-lost-sink": (StopsWithTheDisk, FailsToClose),
    "records-each-step-once": (AppendsOnly, StartsAnew, OneTooMany, HeldBack),
    "state-round-trip": (SetInState, SavesOnly, ForgetsARow),
    "fails-before-it-began": (ClosesWhatIsNotOpen,),
    "leaves-nothing-open": (LeavesItOpen, Thread),
}
FAULTS = [(check, planted(target)) for check, targets in BROKEN.items() for target in targets]
"""A check's name and a component that breaks its promise."""

CRASHES = {
    "strict-json": "ValueError",
    "whole-numbers": "OverflowError",
    "known-only": "ValueError",
    "stops-with-the-disk": "OSError",
    "fails-to-close": "OSError",
    "set-in-state": "TypeError",
    "closes-what-is-not-open": "AttributeError",
}
"""Faults that show as an exception of their own, and which."""

CORRECT = [("*", planted(target)) for target in (Rows, Table, InMemory)]
"""Components that no check may accuse."""
