"""Asks every model every question, then the judge, and writes each answer down as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from attrs import Factory, asdict, evolve, field, frozen

from llmx.compare.askers import asker_of, remote
from llmx.compare.config import AskOptions, Comparison, JudgeOptions, ModelOptions, api_key
from llmx.compare.journal import Journal, read_entries
from llmx.compare.judge import Judge, Judgement, judge_of, judgement_of
from llmx.compare.pool import in_threads
from llmx.compare.questions import Question
from llmx.compare.reply import Asker, Row, digest, row_of
from llmx.errors import RecipeError
from llmx.folder import is_run
from llmx.progress import progress

ASKED, ANSWERS, JUDGEMENTS = "comparison.json", "answers.jsonl", "judgements.jsonl"
GIVEN_UP = 5
"""Errors in a row after which a model is asked no more: its server is gone."""

Say = Callable[[str], None]


@frozen
class Wanted:
    """An answer that is wanted of a model."""

    key: str
    question: Question
    repeat: int


@frozen
class Plan:
    """What is to be asked, and what of it is answered already.

    Attributes:
        who: a hash of each model with its weights and how it is asked, by name.
        wanted: answers by model, in the order of the questions, all of one repeat before the next.
        answered: rows of `out` by key.
    """

    comparison: Comparison
    questions: Sequence[Question]
    repeats: int
    out: Path
    who: Mapping[str, str] = field(default=Factory(lambda self: self.identities(), takes_self=True))
    wanted: Mapping[str, Sequence[Wanted]] = field(
        init=False, default=Factory(lambda self: self.all_wanted(), takes_self=True)
    )
    answered: Mapping[str, Row] = field(
        init=False, default=Factory(lambda self: read_entries(self.out / ANSWERS, row_of), takes_self=True)
    )

    def identities(self) -> dict[str, str]:
        """Return `who` as the folders are now."""
        return {model.name: _identity(model, self.comparison.generate) for model in self.comparison.models}

    def all_wanted(self) -> dict[str, list[Wanted]]:
        """Return `wanted`."""
        return {
            name: [
                Wanted(digest(who, question.turns, question.key, repeat), question, repeat)
                for repeat in range(self.repeats)
                for question in self.questions
            ]
            for name, who in self.who.items()
        }

    def missing(self, model: str) -> list[Wanted]:
        """Return what a model has not answered yet; what ended by an error is asked again."""
        known = {key for key, row in self.answered.items() if row.reply.error is None}
        return [each for each in self.wanted[model] if each.key not in known]

    def rows_of(self, model: str, rows: Mapping[str, Row]) -> list[Row]:
        """Return what a model has answered, in the order it was wanted, by the ids that the questions have now."""
        wanted = self.wanted[model]
        return [evolve(rows[each.key], question=each.question.id) for each in wanted if each.key in rows]

    def check(self) -> None:
        """See that folders and keys are there, without loading or asking anything.

        Raises:
            RecipeError: with a line for each that is not.
        """
        lines = []
        for model in self.comparison.models:
            lines += [f"model {model.name}: {fault}" for fault in _folder_faults(model)]
            lines += _key_faults(model, f"model {model.name}")
        if self.comparison.judge is not None:
            lines += _key_faults(self.comparison.judge, "judge")
        if self.out.exists() and not (self.out.is_dir() and (self.asked.exists() or not any(self.out.iterdir()))):
            lines.append(f"{self.out}: exists and holds no comparison: give another --out")
        if lines:
            raise RecipeError(*lines)

    @property
    def asked(self) -> Path:
        """Where it is written down what was asked."""
        return self.out / ASKED


def _folder_faults(options: ModelOptions) -> list[str]:
    """Return what a glance shows: the other models are asked for hours before this one is loaded."""
    path, found = options.path, []
    if path is not None and not path.is_dir():
        found.append(f"{path}: no such folder: give a run folder or a model folder")
    elif path is not None and not is_run(path) and not (path / "config.json").is_file():
        found.append(f"{path}: holds no config.json: give a run folder or a model folder")
    if options.adapter is not None and not options.adapter.is_dir():
        found.append(f"adapter {options.adapter}: no such folder: give a run with adapter/, or one in PEFT's form")
    return found


def _key_faults(options: ModelOptions | JudgeOptions, where: str) -> list[str]:
    try:
        api_key(options, where)
    except RecipeError as error:
        return list(error.faults)
    return []


def _identity(model: ModelOptions, ask: AskOptions) -> str:
    given = asdict(ask, filter=lambda each, _: each.name != "timeout_s")
    facts = asdict(model, filter=lambda each, value: each.name != "api_key_env" and value is not None)
    return digest(facts, given, None if model.path is None else weights_facts(model.path))


def weights_facts(folder: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of every file of weights: a model that was trained on is another one."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    found = sorted(folder.glob("**/*.safetensors"))
    return [(str(path.relative_to(folder)), (at := path.stat()).st_size, at.st_mtime_ns) for path in found]


def ask_all(plan: Plan, at_once: int, say: Say) -> list[Row]:
    """Ask what is missing, one model after another, and return all rows in the order they were wanted.

    A URL that does not answer is told before anything is asked; a folder's model is freed before the next is loaded.

    Raises:
        LlmxError: a model cannot be loaded or reached.
    """
    for model in plan.comparison.models:
        if model.url is not None and plan.missing(model.name):
            remote(model, plan.comparison.generate)
    with Journal(plan.out / ANSWERS, row_of) as journal:
        for model in plan.comparison.models:
            missing = plan.missing(model.name)
            if missing:
                with closing(asker_of(model, plan.comparison.generate, at_once)) as asker:
                    _ask(model.name, asker, missing, journal, at_once, say)
        found = journal.entries
    return [row for model in plan.wanted for row in plan.rows_of(model, found)]


def _ask(name: str, asker: Asker, missing: Sequence[Wanted], journal: Journal[Row], at_once: int, say: Say) -> None:
    """Ask one model; the first question is asked once more before, for what is slow only once is not measured."""
    if hasattr(asker, "engine"):
        asker.ask(missing[0].question, missing[0].repeat)

    def ask(each: Wanted) -> Row:
        began_s = time.time()
        reply = asker.ask(each.question, each.repeat)
        return Row(each.key, name, each.question.id, each.repeat, began_s, reply)

    good = bad = faults = 0
    with progress(f"{name}: asking", "answers") as tell:
        for count, (each, row) in enumerate(in_threads(ask, missing, at_once), 1):
            journal.add(row)
            tell(count)
            if row.reply.error is None:
                good, faults = good + 1, 0
                continue
            bad, faults = bad + 1, faults + 1
            if faults <= GIVEN_UP:
                say(f"{name}: question {each.question.id}: {row.reply.error}")
            if faults == GIVEN_UP and faults < len(missing) and not hasattr(asker, "engine"):
                say(f"{name}: {GIVEN_UP} errors in a row: it is asked no more; the same command goes on later")
                break
    errors = f", {bad:,} {'error' if bad == 1 else 'errors'}" if bad else ""
    say(f"{name}: {good:,} {'answer' if good == 1 else 'answers'}{errors}")


def judge_all(
    judge: Judge | None, rows: Sequence[Row], questions: Sequence[Question], out: Path, at_once: int, say: Say
) -> dict[str, Judgement]:
    """Return the judgements of all rows by their keys; equal answers to a question are judged once."""
    if judge is None:
        return {}
    by_id = {question.id: question for question in questions}
    keys = {row.key: judge.key(by_id[row.question], row.reply.text) for row in rows if row.reply.error is None}
    first = {keys[row.key]: row for row in reversed(rows) if row.key in keys}
    with Journal(out / JUDGEMENTS, judgement_of) as journal:
        known = {key for key, each in journal.entries.items() if each.error is None}
        missing = [row for key, row in reversed(first.items()) if key not in known]

        def ask(row: Row) -> Judgement:
            return judge.judge(by_id[row.question], row.reply.text)

        with progress("judging", "answers") as tell:
            for count, (row, found) in enumerate(in_threads(ask, missing, at_once), 1):
                journal.add(found)
                tell(count)
                if found.score is None:
                    why = found.error or f"no score in {found.said.strip()[-80:]!r}"
                    say(f"judge: {row.model}, question {row.question}: {why}")
        return {row: journal.entries[key] for row, key in keys.items() if key in journal.entries}


def find_judge(comparison: Comparison) -> Judge | None:
    """Return the judge, if there is one, having seen that it can be reached."""
    return None if comparison.judge is None else judge_of(comparison.judge)


def to_stderr(line: str) -> None:
    """Tell a line of what goes on."""
    sys.stderr.write(f"llmx: {line}\n")
