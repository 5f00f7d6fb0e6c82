"""What a callback promises: what it borrows it gives back, and a run that was killed ends as if it never had been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from llmx.errors import LlmxError
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.listeners import (
    PLANTED,
    Failing,
    building_it_does_nothing,
    differences,
    fails_before_it_began,
    leaves_nothing_open,
    listens,
    state_of,
    state_round_trip,
    trained_alike,
)
from llmx.testing.tiny import KILLED, copies, killed_and_resumed, random_states, small_run, unequal_weights

BORROWED = {"llmx_before_eval": "llmx_after_eval", "llmx_before_export": "llmx_after_export"}
"""Between these the weights may be exchanged."""
QUIET = {*BORROWED, *BORROWED.values(), "llmx_after_checkpoint"}
"""Announcements whose number must not change what is trained."""


def resumes_exactly(subject: Subject) -> None:
    """A run that was killed and resumed ends with the weights and the state of one that never was, bitwise."""
    whole, killed = killed_and_resumed(subject.part, subject.scratch)
    if killed is None:
        raise NotApplicable(f"it ended the run before update {KILLED}")
    trained_alike(whole, killed, "killed and resumed")
    state = state_of(whole)
    places = differences(state, state_of(killed), "state")
    if places:  # a clock in the state is no fault: it differs between undisturbed runs too
        twin = small_run(subject.part, subject.scratch / "twin")
        twin.train()
        apart = differences(state, state_of(twin), "state")
        places = [each for each in places if each not in apart]
    assert not places, f"killed and resumed: {places[0]} of its state is another"


def gives_the_weights_back(subject: Subject) -> None:
    """Weights it exchanges for an evaluation or an export are those from before when that is over, bitwise."""
    small = small_run(subject.part, subject.scratch / "run")
    kept: dict[str, dict[str, Tensor]] = {}

    @contextmanager
    def around(event: str, _: Mapping[str, Any]) -> Iterator[None]:
        if event in BORROWED:
            kept[BORROWED[event]] = copies(small.run.weights())
        yield
        if event in kept:
            changed = unequal_weights(kept.pop(event), small.run.weights())
            assert changed is None, f"after {event}, update {small.run.state.step}, {changed} is not what it was before"

    small.train(around)


def keeps_the_parameters(subject: Subject) -> None:
    """The optimizer moves the parameters that the model has: values are copied into them, none is replaced."""
    small = small_run(subject.part, subject.scratch / "run")

    @contextmanager
    def around(event: str, _: Mapping[str, Any]) -> Iterator[None]:
        yield
        named = {id(parameter): name for name, parameter in small.run.module.named_parameters()}
        groups = small.run.optimizer.param_groups
        moved = {id(parameter) for group in groups for parameter in group["params"]}
        assert moved <= named.keys(), f"after {event} the optimizer moves parameters that the model has no longer"
        left = [named[id(each)] for each in small.run.parameters() if id(each) not in moved]
        assert not left, f"after {event} the model has another {left[0]} than the optimizer moves"

    small.train(around)


def leaves_the_mode(subject: Subject) -> None:
    """The model is in training mode after an announcement if it was before."""
    small = small_run(subject.part, subject.scratch / "run")

    @contextmanager
    def around(event: str, _: Mapping[str, Any]) -> Iterator[None]:
        before = small.run.module.training
        yield
        after = small.run.module.training
        assert after == before, f"{event} leaves model.training = {after}; it was {before}: dropout would be wrong"

    small.train(around)


def evaluating_draws_nothing(subject: Subject) -> None:
    """At evaluations, checkpoints and exports it draws from no global generator: how many there are changes nothing."""
    small = small_run(subject.part, subject.scratch / "run")

    @contextmanager
    def around(event: str, _: Mapping[str, Any]) -> Iterator[None]:
        before = random_states() if event in QUIET else None
        yield
        same = before is None or random_states() == before
        assert same, f"{event} draws from a global generator: a run that is evaluated more often trains otherwise"

    small.train(around)


def lets_errors_through(subject: Subject) -> None:
    """An error of another listener ends the run: it is not caught on its way."""
    small = small_run(subject.part, subject.scratch / "run")
    small.run.hooks.register(Failing(), "the check")
    try:
        small.train()
    except LlmxError as error:
        if PLANTED not in str(error):
            raise
        return
    raise AssertionError("another listener failed in llmx_after_step, and the run went on")


CHECKS = (
    building_it_does_nothing,
    listens,
    state_round_trip,
    resumes_exactly,
    gives_the_weights_back,
    keeps_the_parameters,
    leaves_the_mode,
    evaluating_draws_nothing,
    lets_errors_through,
    fails_before_it_began,
    leaves_nothing_open,
)
