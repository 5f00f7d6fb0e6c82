"""The step loop: one update after another, with evaluations and checkpoints at their steps."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from llmx.errors import CheckpointError, DivergedError, StoppedError
from llmx.train import checkpoint
from llmx.train.device import autocast, keep_freed_memory, memory_bytes, peak_flops, to_device
from llmx.train.evaluate import evaluate
from llmx.train.export import exported_step
from llmx.train.objective import count_of, take_figures
from llmx.train.rates import rates, set_rates
from llmx.train.signals import catch_signals
from llmx.train.state import TrainState
from llmx.train.tree import random_state, restore_random_state

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx.protocols import Batch, Model

MOST_SKIPPED = 50
"""Updates in a row that fp16 may skip; a loss scale that falls this often no longer helps."""


class Trainer:
    """Takes a run from where its state is to its last step."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.checkpoints = run.folder / "checkpoints"
        self.eval_every = run.recipe.eval.every or max(1, run.sizes.steps // 10)
        self.save_every = run.recipe.checkpoint.every or max(1, math.ceil(run.sizes.steps / 5))
        if run.device.type == "cpu":
            keep_freed_memory()
        self.loss_sum: Callable[[Model, Batch], Tensor] = run.objective
        if run.recipe.train.compile:
            self.loss_sum = torch.compile(run.objective)
        self.built_groups = group_options(run.optimizer)
        self.skipped = 0
        self.figures: dict[str, float] = {}
        self.saved_step: int | None = None
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.precision == "fp16")
        self.flops_per_token = run.model.flops_per_token(run.sizes.sequence_length)
        self.peak_flops = peak_flops(run.precision, run.device)

    def train(self) -> None:
        """Run to the end.

        Raises:
            DivergedError: loss or gradient were not finite; the last good state is in a checkpoint.
            StoppedError: SIGINT or SIGTERM came; the state is in a checkpoint.
        """
        run = self.run
        run.hooks.announce("llmx_before_run", run=run)
        self._agree_to_stop()
        with catch_signals() as received:
            while run.state.step < run.sizes.steps and run.stop_reason is None:
                self._step()
                self._after_step()
                signalled = run.world.any(bool(received), run.device)
                if signalled and run.state.step < run.sizes.steps:
                    self.save()
                    raise self._stopped(received[0] if received else signal.SIGTERM)

    def _stopped(self, signum: int) -> StoppedError:
        run = self.run
        text = f"stopped after step {run.state.step} of {run.sizes.steps}; go on with: llmx run {run.folder} --resume"
        return StoppedError(signum, text)

    # --- one update -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        run, state = self.run, self.run.state
        began = time.perf_counter()
        set_rates(run)
        run.hooks.announce("llmx_before_step", run=run)
        loss = self._gradients(self._batches())
        grad_norm = self._update(loss)
        tokens = run.sizes.rows * run.sizes.sequence_length
        state.step += 1
        state.tokens += tokens
        per_second = tokens / (time.perf_counter() - began)
        metrics = {
            "step": state.step,
            "tokens": state.tokens,
            "epoch": run.train_rows.epoch(state.step * run.sizes.rows),
            "train/loss": loss,
            **rates(run),
            "grad_norm": grad_norm,
            "tokens_per_s": per_second,
            "mfu": per_second * self.flops_per_token / (self.peak_flops * run.world.size),
            "memory_bytes": memory_bytes(run.device),
            **self.figures,
        }
        run.hooks.announce("llmx_after_step", run=run, metrics=metrics)

    def _batches(self) -> list[Batch]:
        sizes = self.run.sizes
        first = self.run.state.step * sizes.rows + self.run.world.rank * sizes.rank_rows
        positions = range(first, first + sizes.rank_rows, sizes.micro_batch)
        return [self.run.train_rows.batch(position, sizes.micro_batch) for position in positions]

    def _gradients(self, batches: list[Batch]) -> float:
        """Accumulate the gradient of the mean loss over the update's counted tokens, and return that loss."""
        run = self.run
        run.optimizer.zero_grad(set_to_none=True)
        counts = torch.tensor(sum(count_of(run.objective, batch) for batch in batches), device=run.device)
        count = max(1, int(run.world.sum(counts)))
        total = torch.zeros((), device=run.device)
        for batch in batches:
            with autocast(run.precision, run.device):
                loss_sum = self.loss_sum(run.model, to_device(batch, run.device))
            self.scaler.scale(loss_sum / count).backward()  # type: ignore[no-untyped-call]
            total += loss_sum.detach()
        run.world.sum_all(p.grad for p in run.parameters() if p.grad is not None)
        self.figures = take_figures(run, "train", count)
        return float(run.world.sum(total)) / count

    def _update(self, loss: float) -> float:
        """Check and clip the gradient and move the weights; return the gradient's norm before clipping."""
        run = self.run
        if not math.isfinite(loss):
            raise self._diverged("loss", loss)
        self.scaler.unscale_(run.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(run.parameters(), run.recipe.train.clip_norm))
        if math.isfinite(norm):
            self.skipped = 0
            run.hooks.announce("llmx_before_update", run=run)
        else:
            self.skipped += 1
            # an overflow of fp16 is the scaler's business: it skips the update and lowers its scale
            if not self.scaler.is_enabled() or self.skipped > MOST_SKIPPED:
                raise self._diverged("gradient norm", norm)
        self.scaler.step(run.optimizer)
        self.scaler.update()
        return norm

    def _diverged(self, what: str, value: float) -> DivergedError:
        state = self.run.state
        self.save()
        return DivergedError(
            f"step {state.step + 1}: the {what} is {value}; the weights of step {state.step} are kept in "
            f"{self.checkpoints}; lower optimizer.lr or look at the data"
        )

    # --- between updates --------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        """Evaluate and save where this step asks for it."""
        run, step = self.run, self.run.state.step
        self._agree_to_stop()
        last = step == run.sizes.steps or run.stop_reason is not None
        improved = False
        if run.held_out is not None and (last or step % self.eval_every == 0):
            improved = self._evaluate()
            self._agree_to_stop()
        if self._ends_epoch():
            run.state.epoch_steps.append(step)
        if last or improved or run.stop_reason or step % self.save_every == 0 or step in run.state.epoch_steps:
            self.save()
            self._agree_to_stop()  # a hook may have stopped rank 0 when its checkpoint was complete

    def _ends_epoch(self) -> bool:
        """Return whether the step at hand is the last of an epoch whose checkpoint is to be kept."""
        run = self.run
        before, now = (run.train_rows.epoch(step * run.sizes.rows) for step in (run.state.step - 1, run.state.step))
        return run.recipe.checkpoint.every_epoch and int(now) > int(before)

    def _agree_to_stop(self) -> None:
        """Stop every rank when a hook has stopped one."""
        run = self.run
        if run.world.any(run.stop_reason is not None, run.device) and run.stop_reason is None:
            run.stop("stopped on another rank")
        run.state.stop_reason = run.stop_reason

    def _evaluate(self) -> bool:
        """Measure the held-out loss; return whether it is the lowest so far."""
        run, state = self.run, self.run.state
        run.hooks.announce("llmx_before_eval", run=run)
        loss, bits_per_byte, figures = evaluate(run)
        if not math.isfinite(loss):
            raise DivergedError(
                f"step {state.step}: the validation loss is {loss}; earlier weights are kept in {self.checkpoints}; "
                "lower optimizer.lr"
            )
        improved = state.best_loss is None or loss < state.best_loss
        if improved:
            state.best_loss, state.best_step = loss, state.step
        metrics = {"step": state.step, "tokens": state.tokens, "val/loss": loss, **figures}
        if bits_per_byte is not None:
            metrics["val/bits_per_byte"] = bits_per_byte
        run.hooks.announce("llmx_after_eval", run=run, metrics=metrics)
        return improved

    def save(self) -> None:
        """Write a checkpoint of the present state, and delete those it makes superfluous."""
        run, state = self.run, self.run.state
        if self.saved_step == state.step:
            return
        self.saved_step = state.step
        if run.world.main:
            self._write()
        run.world.wait()

    def _write(self) -> None:
        run, state = self.run, self.run.state
        everything = {
            "train": attrs.asdict(state),
            "optimizer": run.optimizer.state_dict(),
            "optimizer_options": self.built_groups,
            "scaler": self.scaler.state_dict(),
            "random": random_state(run.device),
            "listeners": run.hooks.state_dict(),
        }
        folder = checkpoint.save(self.checkpoints, state.step, run.weights(), everything)
        keep = [*state.epoch_steps, *([] if state.best_step is None else [state.best_step])]
        checkpoint.prune(self.checkpoints, state.step, run.recipe.checkpoint.keep_last, keep)
        run.hooks.announce("llmx_after_checkpoint", run=run, path=folder)

    def resume(self, folder: Path) -> None:
        """Take over the state of a checkpoint.

        Raises:
            CheckpointError: the checkpoint is not whole, or of a run with other parts.
        """
        run = self.run
        weights, state = checkpoint.load(folder)
        try:
            run.load_weights(weights)
            run.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{folder}: does not fit the recipe's model or optimizer: {reason}") from error
        # a rate that was changed for the resume counts; what the optimizer itself keeps in its groups stays
        groups = zip(run.optimizer.param_groups, self.built_groups, state["optimizer_options"], strict=True)
        for group, now, then in groups:
            group.update({key: value for key, value in now.items() if key not in then or then[key] != value})
        run.hooks.load_state_dict(state["listeners"])
        restore_random_state(state["random"], run.device)
        run.state = TrainState(**state["train"])
        self.saved_step = run.state.step
        if exported_step(run.folder) != run.state.step:  # it was stopped and killed before that was done: finish it
            run.stop_reason = run.state.stop_reason


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group, without its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
