"""A run in a notebook: put together from names and objects, trained again and again, asked and saved in between."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from llmx import hookimpl, pretrained
from llmx.api import Source, report_failure, resumed_source
from llmx.assembly import register_listeners
from llmx.begin import begin, write_down
from llmx.errors import RecipeError, StoppedError
from llmx.files import temporary_beside
from llmx.given.recipe import resolve
from llmx.given.schedule import TorchSchedule
from llmx.interactive.ask import answer
from llmx.interactive.measure import Evaluation, Stats, evaluation_of, stats_of
from llmx.interactive.restore import restore
from llmx.train.export import export
from llmx.train.hooks import RunHooks
from llmx.train.rates import group_schedules

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LRScheduler

    from llmx.assembly import Run
    from llmx.protocols import Dataset, Document, Message, Schedule, Tokenizer

    Turn = Mapping[str, Any] | Message
    Item = str | Sequence[Turn] | Mapping[str, Any] | Document
    Data = str | Path | Mapping[str, Any] | Sequence[Item] | Sequence[Path] | Dataset
    Loss = Callable[..., Tensor]
    Optimizer = torch.optim.Optimizer | type[torch.optim.Optimizer] | Callable[[Any], torch.optim.Optimizer]
    Scheduler = Schedule | LRScheduler | Callable[..., Any]

LEAST_APART = 50
"""Steps between two checkpoints at least, where nobody says it: short calls are many, and each ends with one."""


class Trainer:
    """A run that a program holds in its hands.

    It is the run that `llmx.run` makes, with the same recipe, loop and run folder. Every part is a name or an object.
    A recipe is laid under all that is given; without one the rate is even, updates suit the size of the data, and
    little text is learned whole, character by character.

    Args:
        model: a name; a folder or hub id of a pretrained one; an `nn.Module` that keeps `llmx.protocols.Model`, trained
            in place; or a function of the vocabulary's size that makes one.
        data: a list of texts, of chats (each a list of `{"role": …, "content": …}`), or of records as a JSON Lines file
            has them; a path; the table of a recipe's section `data`; or a `llmx.protocols.Dataset`.
        tokenizer: a name, or a `llmx.protocols.Tokenizer`.
        loss: the name of an objective; a function `(model, batch)` that returns the sum over the labels that count; or
            one of `(logits_KV, labels_K)` such as `nn.CrossEntropyLoss()`, given the K positions that have a label.
        optimizer: a name, a class of torch, an optimizer of the model's parameters, or a function of the model.
        scheduler: a name; a function of the step, or of the step and all steps, that returns the factor on the peak
            rate; a scheduler of torch; or a function whose argument is `optimizer` that makes one.
        callbacks: names; objects with hooks of `llmx.hookspecs`; or functions `(run, metrics)`, called after each step.
        recipe: a file or nested values.
        overrides: values over the recipe's: `{"model.preset": "tiny", "data.sequence_length": 64}`.
        out: the run folder; None takes a temporary one, which goes with the trainer.
        resume: go on with the run in `out`, if there is one. Objects of one's own have to be given again.
        hooks: Python files with hooks of this run.
        names: parts of other sections: `adapter=["lora"]`, `logger=[]`, `sampler=["greedy"]`.

    Raises:
        RecipeError: a name or an option does not exist, or an object lacks something of its contract.
        DataError: the data cannot be read, or holds nothing to train on.
    """

    def __init__(
        self,
        model: str | Path | nn.Module | Callable[[int], nn.Module] | None = None,
        data: Data | None = None,
        *,
        tokenizer: str | Tokenizer | None = None,
        loss: str | Loss | None = None,
        optimizer: str | Optimizer | None = None,
        scheduler: str | Scheduler | None = None,
        callbacks: Sequence[Any] = (),
        recipe: Source = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        out: str | Path | None = None,
        resume: bool = False,
        hooks: Sequence[str] = (),
        **names: Any,
    ) -> None:
        if resume and out is None:
            raise RecipeError("resume: needs out=, the folder of the run")
        sections: dict[str, Any] = {"model": model, "data": data, "tokenizer": tokenizer, "objective": loss}
        sections |= {"optimizer": optimizer, "scheduler": scheduler, "callback": callbacks or None}
        twice = [name for name in names if sections.get(name) is not None]
        if twice:
            raise RecipeError(f"{twice[0]}: is given twice: keep one of them")
        folder = Path(out) if out is not None else self._scratch() / "run"
        if resume:
            recipe, folder = resumed_source(recipe, folder)
        resolved, registry = resolve({**sections, **names}, source=recipe, overrides=overrides, hooks=hooks)
        self._loop, self._written = begin(resolved, registry, folder, resume=resume)
        asked = {"train.steps", "train.epochs"} & resolved.origins.keys()
        self._planned = self.run.sizes.steps if asked else 0
        self._end = float(self.run.state.step)
        self._last = _LastStep()
        self.run.hooks.register(self._last, "trainer")

    def _scratch(self) -> Path:
        """Make a folder that goes with this object."""
        folder = tempfile.mkdtemp(prefix="llmx-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @property
    def run(self) -> Run:
        """The run with all its parts: `trainer.run.model`, `trainer.run.tokenizer`, `trainer.run.recipe`."""
        return self._loop.run

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    # --- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        *,
        epochs: float | None = None,
        steps: int | None = None,
        save_every: int | None = None,
        eval_every: int | None = None,
        log_every: int | None = None,
    ) -> Stats:
        """Train on from where the run is; a checkpoint is written at the end.

        A schedule that falls, such as "cosine", falls to the end of this call, or to that of the recipe's `train.steps`
        or `train.epochs`, whichever is later.

        Args:
            epochs: passes over the training data to add.
            steps: updates to add. Without either, the run goes to the end that its recipe says.
            save_every: steps between checkpoints. None: as the recipe says, else a fifth of this call, `LEAST_APART` at
                least.
            eval_every: steps between evaluations of held-out data. None: as the recipe says, else a tenth of this call.
            log_every: steps between lines of the loggers that have such an option. None: as they have it.

        Raises:
            DivergedError: loss or gradient were not finite; the last good state is in a checkpoint.
            StoppedError: the program was interrupted; another call goes on.
        """
        for name, every in (("save_every", save_every), ("eval_every", eval_every), ("log_every", log_every)):
            if every is not None and every < 1:
                raise RecipeError(f"train: {name} = {every}: must be 1 or more")
        end = self._end_of(epochs, steps)
        self._plan(end, save_every, eval_every, log_every)
        write_down(self.run, resumed=self._written)
        self._written = True
        with self._announced():
            self._loop.train()
            self.run.hooks.announce("llmx_after_run", run=self.run)
        return self.stats()

    def _end_of(self, epochs: float | None, steps: int | None) -> int:
        """Return the step to train to. What epochs leave of a step is made up for by the next call."""
        run = self.run
        if epochs is not None and steps is not None:
            raise RecipeError("train: epochs and steps are given: keep one of them")
        for name, value in (("epochs", epochs), ("steps", steps)):
            if value is not None and not value > 0:
                raise RecipeError(f"train: {name} = {value}: must be more than 0")
        if round(self._end) != run.state.step:  # it was stopped, or brought elsewhere
            self._end = float(run.state.step)
        if epochs is not None:
            self._end += epochs * run.train_rows.rows_per_epoch / run.sizes.rows
        elif steps is not None:
            self._end += steps
        else:
            self._end = float(self._planned or run.sizes.steps)
            if self._end <= run.state.step:
                raise RecipeError(f"train: step {run.state.step} is the last of the recipe: say epochs= or steps=")
        return max(run.state.step + 1, round(self._end))

    def _plan(self, end: int, save_every: int | None, eval_every: int | None, log_every: int | None) -> None:
        """Set the run to end at a step, as one that is resumed with that many."""
        run, loop = self.run, self._loop
        recipe = attrs.evolve(run.recipe, train=attrs.evolve(run.recipe.train, steps=end, epochs=None))
        if log_every is not None:
            recipe = attrs.evolve(recipe, loggers=tuple(_with_every(part, log_every) for part in recipe.loggers))
        fifth, tenth = -(-(end - run.state.step) // 5), max(1, (end - run.state.step) // 10)
        loop.save_every = save_every or recipe.checkpoint.every or max(fifth, LEAST_APART)
        loop.eval_every = eval_every or recipe.eval.every or tenth
        total = max(end, self._planned)
        run.recipe, run.sizes = recipe, attrs.evolve(run.sizes, steps=end)
        run.schedule = recipe.scheduler.build(total)
        run.group_schedules = group_schedules(recipe, run.optimizer, total)
        if isinstance(run.schedule, TorchSchedule):
            run.group_schedules = run.schedule.bind(run.optimizer) | run.group_schedules
        run.stop_reason = run.state.stop_reason = None
        self._renew_listeners()

    def _renew_listeners(self) -> None:
        """Give the run loggers and callbacks that know of this end, with the state of those before, as a resume."""
        before = self.run.hooks
        self.run.hooks = RunHooks()
        register_listeners(self.run, before.modules())
        self.run.hooks.register(self._last, "trainer")
        self.run.hooks.load_state_dict(before.state_dict())

    @contextlib.contextmanager
    def _announced(self) -> Iterator[None]:
        """Tell the listeners of an error, and of an interruption how a program goes on after it."""
        try:
            yield
        except StoppedError as error:
            report_failure(self.run, error)
            text = f"stopped after step {self.run.state.step} of {self.run.sizes.steps}; train() goes on"
            raise StoppedError(error.exit_code - 128, text) from error
        except BaseException as error:
            report_failure(self.run, error)
            raise

    # --- in between -------------------------------------------------------------------------------------------------

    def evaluate(self, data: Data | None = None) -> Evaluation:
        """Measure the model as it is now, by the loss it is trained with; nothing of the run changes.

        Args:
            data: as the trainer takes it, read whole. None: the held-out part of its own, or where none is held out
                what it is trained on.

        Returns:
            `loss`, `perplexity`, `bits_per_byte`, `tokens`, and `data`, which of the three it was.
        """
        return evaluation_of(self.run, data)

    def generate(
        self,
        prompt: str | Sequence[str] | Sequence[Turn],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return how the model as it is now continues a text, a list of texts (a list comes back), or a chat.

        Args:
            max_new_tokens: most tokens to add. None: as the recipe says, 100.
            temperature: what the logits are divided by, 0 for the best token always. None: as the sampler chain has it.
            seed: of the draws.
        """
        return answer(self.run, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)

    def stats(self) -> Stats:
        """Return where the run stands: step, epoch, tokens, losses, speed, sizes, device, folder."""
        return stats_of(self.run, self._last.metrics)

    # --- folders ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path | None = None) -> Path:
        """Write the model as the end of a run does, and return its folder.

        It is a Hugging Face folder with the tokenizer; where adapters are kept apart (`checkpoint.merge`), theirs.

        Args:
            folder: where it is copied to; a model folder there is replaced. None: `model/` of the run folder alone.
        """
        target = None if folder is None else Path(folder)
        if target is not None and target.exists() and not _is_replaceable(target):
            raise RecipeError(f"{target}: is not empty and holds no model: give another folder")
        if not self._written:
            write_down(self.run, resumed=False)
            self._written = True
        if self.run.recipe.checkpoint.export == "best":  # it goes there and comes back to this step
            self._loop.save()
        made = export(self.run)
        if target is None:
            return made
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        shutil.copytree(made, temporary, dirs_exist_ok=True)
        pretrained.replace_folder(temporary, target)
        return target

    def load(self, folder: str | Path) -> None:
        """Take over what a folder holds: of a run its newest checkpoint, or of a checkpoint, all that training goes on
        from; of a model folder the weights alone.

        Raises:
            CheckpointError: it is damaged, or of another model or tokenizer.
        """
        restore(self._loop, Path(folder))
        self._end = float(self.run.state.step)


class _LastStep:
    """Keeps what the last step measured."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics


def _with_every(part: Any, every: int) -> Any:
    """Return a logger that writes a line every so many steps, where it has that option."""
    if not hasattr(part.options, "every"):
        return part
    return attrs.evolve(part, options=attrs.evolve(part.options, every=every))


def _is_replaceable(folder: Path) -> bool:
    """Return whether a folder is empty or a model that llmx wrote."""
    return folder.is_dir() and (not any(folder.iterdir()) or (folder / pretrained.LLMX).is_file())
