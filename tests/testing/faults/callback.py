"""Callbacks with the mistakes that authors make, and correct ones that are unlike ours."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from llmx import Component, NoOptions, hookimpl
from llmx.assembly import Run


class Average:
    """Correct: a running average of the weights takes their place for evaluations and for the export."""

    def __init__(self, _options: NoOptions, run: Run) -> None:
        self.average = {name: weight.detach().clone() for name, weight in run.module.named_parameters()}
        self.kept: dict[str, Tensor] = {}

    @hookimpl
    def llmx_after_step(self, run: Run, metrics: dict[str, float]) -> None:
        with torch.no_grad():
            for name, weight in run.module.named_parameters():
                self.average[name].lerp_(weight, 0.2)

    @hookimpl
    def llmx_before_eval(self, run: Run) -> None:
        self.exchange(run)

    @hookimpl
    def llmx_after_eval(self, run: Run) -> None:
        self.put_back(run)

    @hookimpl
    def llmx_before_export(self, run: Run) -> None:
        self.exchange(run)

    @hookimpl
    def llmx_after_export(self, run: Run) -> None:
        self.put_back(run)

    def exchange(self, run: Run) -> None:
        self.kept = {name: weight.detach().clone() for name, weight in run.module.named_parameters()}
        self.copy(run, self.average)

    def put_back(self, run: Run) -> None:
        self.copy(run, self.kept)
        self.kept = {}

    def copy(self, run: Run, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in run.module.named_parameters():
                weight.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, weight in self.average.items():
            weight.copy_(state[name])


# --- faults ---------------------------------------------------------------------------------------------------------


class WritesEarly(Average):
    """Its folder is made with the object, also by a dry run."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        (run.folder / "average").mkdir(parents=True)


class Initialises(Average):
    """The weights are drawn anew when the object is made, after a resumed run's or not."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        nn.init.normal_(run.model.head_weight(), std=0.02)


class Unmarked(Average):
    """The end of an export lacks the mark, and is never called."""

    def llmx_after_export(self, run: Run) -> None:
        self.put_back(run)


class Silent:
    """It has no announcement at all."""

    def __init__(self, _options: NoOptions, run: Run) -> None:
        self.run = run


class PathInState(Average):
    """A path is no value that a checkpoint takes."""

    def state_dict(self) -> dict[str, Any]:
        return {"folder": Path("average"), **self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)


class HalfTheState(Average):
    """The count of updates is saved and not loaded."""

    count = 0

    @hookimpl
    def llmx_after_step(self, run: Run, metrics: dict[str, float]) -> None:
        super().llmx_after_step(run, metrics)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, **self.average}


class StringKeys(Average):
    """Numbers of updates become strings on the way, as through plain JSON."""

    def __init__(self, options: NoOptions, run: Run) -> None:
        super().__init__(options, run)
        self.losses: dict[Any, float] = {}

    @hookimpl
    def llmx_after_step(self, run: Run, metrics: dict[str, float]) -> None:
        self.losses[run.state.step] = metrics["train/loss"]

    def state_dict(self) -> dict[str, Any]:
        return self.losses

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = {str(step): loss for step, loss in state.items()}


class ForgetsTheCount:
    """The count of updates is not in the state: after a resume the rate falls from the top again."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        self.steps = 0

    @hookimpl
    def llmx_before_step(self, run: Run) -> None:
        self.steps += 1
        for group in run.optimizer.param_groups:
            group["lr"] *= 0.9**self.steps


class KeepsItInMemory:
    """Weights are pulled to the first ones, which are in memory alone: a resumed run has others."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        self.first: dict[str, Tensor] = {}

    @hookimpl
    def llmx_before_update(self, run: Run) -> None:
        for name, weight in run.module.named_parameters():
            first = self.first.setdefault(name, weight.detach().clone())
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - first, alpha=0.01)


class RoundsTheState(Average):
    """The average is saved in bf16 to save space."""

    def state_dict(self) -> dict[str, Any]:
        return {name: weight.bfloat16() for name, weight in self.average.items()}


class NeverPutsBack(Average):
    """After an export the average stays in the model."""

    @hookimpl
    def llmx_after_export(self, run: Run) -> None:
        self.kept = {}


class AddsAndSubtracts(Average):
    """The difference to the average is added and taken off again, which does not give the same bits."""

    def exchange(self, run: Run) -> None:
        self.kept = {name: self.average[name] - weight.detach() for name, weight in run.module.named_parameters()}
        self.move(run, 1)

    def put_back(self, run: Run) -> None:
        self.move(run, -1)

    def move(self, run: Run, sign: int) -> None:
        with torch.no_grad():
            for name, weight in run.module.named_parameters():
                weight.add_(self.kept[name], alpha=sign)


class KeepsAReference(Average):
    """What is put back was never copied: it is the average itself by then."""

    def exchange(self, run: Run) -> None:
        self.kept = {name: weight.detach() for name, weight in run.module.named_parameters()}
        self.copy(run, self.average)


class ForgetsTheNorms(Average):
    """Only what has two dimensions is put back."""

    def put_back(self, run: Run) -> None:
        with torch.no_grad():
            for name, weight in run.module.named_parameters():
                if weight.ndim == 2:
                    weight.copy_(self.kept[name])


class NewParameters(Average):
    """Weights are put back as new parameters, which the optimizer does not know."""

    def put_back(self, run: Run) -> None:
        for name, value in self.kept.items():
            owner, _, leaf = name.rpartition(".")
            setattr(run.module.get_submodule(owner), leaf, nn.Parameter(value))


class Evaluates(Average):
    """Texts are made after a step in evaluation mode, and the mode stays."""

    @hookimpl
    def llmx_after_step(self, run: Run, metrics: dict[str, float]) -> None:
        run.module.eval()
        run.generate("a", max_new_tokens=2)


class ExportsInEvaluation(Average):
    """Evaluation mode is set for an export, and stays."""

    @hookimpl
    def llmx_before_export(self, run: Run) -> None:
        run.module.eval()


class DrawsTexts(Average):
    """A prompt is chosen with Python's global generator at each evaluation."""

    @hookimpl
    def llmx_before_eval(self, run: Run) -> None:
        self.prompt = random.choice(["a", "b"])
        super().llmx_before_eval(run)


class SeedsForTexts(Average):
    """Torch is seeded before texts are made, so that they are the same each time: and so is the next dropout."""

    @hookimpl
    def llmx_after_eval(self, run: Run) -> None:
        torch.manual_seed(0)
        super().llmx_after_eval(run)


class NamesCheckpoints(Average):
    """The name of an upload is drawn after each checkpoint."""

    @hookimpl
    def llmx_after_checkpoint(self, path: Path) -> None:
        self.upload = f"{path.name}-{torch.randint(1000, ()).item()}"


class Swallows(Average):
    """A wrapper around others' work catches what goes wrong in it."""

    @hookimpl(wrapper=True)
    def llmx_after_step(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            return


class PutsBackNothing(Average):
    """A run that fails has its weights put back, also where none were exchanged."""

    @hookimpl
    def llmx_run_failed(self, run: Run) -> None:
        self.put_back(run)


class KeepsAFile(Average):
    """A file of notes is closed when a run ends, and not when it fails."""

    notes: TextIO

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.notes = (run.folder / "notes.txt").open("w", encoding="utf-8")

    @hookimpl
    def llmx_after_run(self) -> None:
        self.notes.close()


# --- correct, but unlike ours ---------------------------------------------------------------------------------------


class Noise:
    """Correct: noise on the gradients from the global generators, whose state a checkpoint has."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        pass

    @hookimpl
    def llmx_before_update(self, run: Run) -> None:
        for parameter in run.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(torch.randn_like(parameter.grad), alpha=1e-3 * random.random())


class Clock(Average):
    """Correct: the state has the time of its last save, and the average is moved in by exchanging data."""

    def state_dict(self) -> dict[str, Any]:
        return {"saved_at": random.SystemRandom().random(), "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.saved_at = state["saved_at"]
        super().load_state_dict(state["average"])


class StopsEarly:
    """Correct: ends the run after its first evaluation."""

    def __init__(self, _options: NoOptions, _run: Run) -> None:
        pass

    @hookimpl
    def llmx_after_eval(self, run: Run) -> None:
        run.stop("enough")


class Unfreezes:
    """Correct: the head is trained from the third update on; its parameter group is there from the start."""

    def __init__(self, _options: NoOptions, run: Run) -> None:
        self.frozen = run.model.head_weight()

    @hookimpl
    def llmx_before_step(self, run: Run) -> None:
        self.frozen.requires_grad_(run.state.step >= 3)

    @hookimpl(trylast=True)
    def llmx_after_run(self) -> None:
        self.frozen.requires_grad_(True)


def planted(target: type) -> Component:
    """Return the component of a class of this file."""
    name = "".join(f"-{each.lower()}" if each.isupper() else each for each in target.__name__).strip("-")
    summary = (target.__doc__ or "").partition("\n")[0]
    return Component(name=name, target=f"llmx_faults_callback:{target.__name__}", summary=summary)


BROKEN = {
    "building-it-does-nothing": (WritesEarly, Initialises),
    "listens": (Unmarked, Silent),
    "state-round-trip": (PathInState, HalfTheState, StringKeys),
    "resumes-exactly": (ForgetsTheCount, KeepsItInMemory, RoundsTheState),
    "gives-the-weights-back": (NeverPutsBack, AddsAndSubtracts, KeepsAReference, ForgetsTheNorms),
    "keeps-the-parameters": (NewParameters,),
    "leaves-the-mode": (Evaluates, ExportsInEvaluation),
    "evaluating-draws-nothing": (DrawsTexts, SeedsForTexts, NamesCheckpoints),
    "lets-errors-through": (Swallows,),
    "fails-before-it-began": (PutsBackNothing,),
    "leaves-nothing-open": (KeepsAFile,),
}
FAULTS = [(check, planted(target)) for check, targets in BROKEN.items() for target in targets]
"""A check's name and a component that breaks its promise."""

CRASHES = {"path-in-state": "TypeError", "puts-back-nothing": "KeyError"}
"""Faults that show as an exception of their own, and which."""

CORRECT = [("*", planted(target)) for target in (Average, Noise, Clock, StopsEarly, Unfreezes)]
"""Components that no check may accuse."""
