"""What a person sees while a run goes: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmx import hookimpl
from llmx.nn import count_weights
from llmx_loggers import ConsoleOptions

if TYPE_CHECKING:
    from llmx.assembly import Run

BARS = "▁▂▃▄▅▆▇█"
SMOOTHING = 0.9
"""Share of the past in the shown speed; a single step is noisy."""


class ConsoleLogger:
    """Shows progress, loss, learning rate, speed, memory and the time left."""

    def __init__(self, options: ConsoleOptions, run: Run) -> None:
        self.console = Console()
        self.every = options.every or max(1, run.sizes.steps // 20)
        self.total = run.sizes.steps
        self.metrics: dict[str, float] = {}
        self.losses: list[float] = []
        self.val_loss: float | None = None
        self.seconds_a_step: float | None = None
        self._last = time.perf_counter()
        self._live: Live | None = None

    # --- events -----------------------------------------------------------------------------------------------------

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        self.console.print(header(run), highlight=False, soft_wrap=True)
        if run.state.step:
            self.console.print(f"Going on after step {run.state.step} of {self.total}.", highlight=False)
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._view)
            self._live.start()
        self._last = time.perf_counter()

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        now = time.perf_counter()
        took, self._last = now - self._last, now
        before = self.seconds_a_step
        self.seconds_a_step = took if before is None else SMOOTHING * before + (1 - SMOOTHING) * took
        self.metrics = metrics
        self.losses.append(metrics["train/loss"])
        step = int(metrics["step"])
        if self._live is None and (step % self.every == 0 or step in (1, self.total)):
            self.console.print("  ".join(f"{k} {v}" for k, v in self._facts()), highlight=False, soft_wrap=True)

    @hookimpl
    def llmx_after_eval(self, metrics: dict[str, float]) -> None:
        self.val_loss = metrics["val/loss"]
        if self._live is None:
            bits = metrics.get("val/bits_per_byte")
            text = f"step {int(metrics['step'])}  validation loss {self.val_loss:.4f}"
            text += "" if bits is None else f"  bits per byte {bits:.3f}"
            self.console.print(text, highlight=False, soft_wrap=True)

    @hookimpl
    def llmx_after_run(self) -> None:
        self._stop()

    @hookimpl
    def llmx_run_failed(self) -> None:
        self._stop()

    # --- what is shown ----------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _facts(self) -> list[tuple[str, str]]:
        m = self.metrics
        return [
            ("step", f"{int(m['step'])}/{self.total}"),
            ("loss", f"{m['train/loss']:.4f}"),
            ("lr", f"{m['lr']:.2e}"),
            ("grad", f"{m['grad_norm']:.2f}"),
            ("tokens/s", f"{m['tokens_per_s']:,.0f}"),
            ("MFU", f"{m['mfu']:.0%}"),
            ("memory", f"{m['memory_bytes'] / 2**30:.1f} GiB"),
            ("left", self._left()),
        ]

    def _left(self) -> str:
        seconds = round((self.total - self.metrics["step"]) * (self.seconds_a_step or 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _view(self) -> RenderableType:
        if not self.metrics:
            return Text("The first step …", style="dim")
        facts = self._facts()
        facts.insert(2, ("val loss", "-" if self.val_loss is None else f"{self.val_loss:.4f}"))
        grid = Table.grid(padding=(0, 3))
        for row in (facts[:3], facts[3:6], facts[6:]):
            grid.add_row(*(Text.assemble((name, "dim"), " ", (value, "bold")) for name, value in row))
        bar = Table.grid()  # a bar alone ends no line
        bar.add_row(ProgressBar(total=self.total, completed=self.metrics["step"], width=min(66, self.console.width)))
        curve = sparkline(self.losses, min(61, self.console.width - 5))
        return Group(bar, grid, Text.assemble(("loss ", "dim"), (curve, "cyan")))


def header(run: Run) -> str:
    """Return the lines that say what runs on what."""
    count = count_weights(run.module)
    trained = sum(each.numel() for each in run.module.parameters() if each.requires_grad)
    of_them = f", {trained:,} of them trained" if run.recipe.adapters else ""
    random = of_them and run.recipe.base is None
    base = "its weights are random where no adapter is: model.pretrained names better ones\n" if random else ""
    sizes, names = run.sizes, run.recipe
    return (
        f"{names.model.name}: {count:,} parameters{of_them}, {run.tokenizer.vocab_size:,} tokens in the vocabulary\n"
        f"{base}"
        f"{names.corpus}: {run.train_rows.tokens:,} training tokens, "
        f"{run.held_out.tokens if run.held_out else 0:,} held out\n"
        f"{unread(run)}"
        f"{names.optimizer.name}, {names.scheduler.name}: {sizes.steps} steps of {sizes.rows} x "
        f"{sizes.sequence_length} tokens ({run.train_rows.epoch(sizes.steps * sizes.rows):.1f} epochs), "
        f"{run.precision} on {run.device}\n"
        f"{long_update(run)}"
        f"writing to {run.folder}"
    )


def long_update(run: Run) -> str:
    """Return a line on an update that reads rows more than once, empty if it does not."""
    epochs = run.train_rows.epoch(run.sizes.rows)
    return f"an update is {epochs:.1f} epochs: lower train.tokens_per_update\n" if epochs > 1 else ""


def unread(run: Run) -> str:
    """Return a line on what of the training documents is not read or not trained on, empty if all is."""
    facts = run.train_rows.facts()
    told = []
    if facts.get("truncated_tokens", 0):
        documents, tokens = facts["truncated_documents"], facts["truncated_tokens"]
        told.append(f"{documents:,} documents are longer than a row: {tokens:,} tokens at their ends are not read")
    if facts.get("left_out_documents", 0):
        told.append(f"{facts['left_out_documents']:,} documents have no token to train on and are left out")
    if facts.get("lost_turns", 0):
        told.append(f"{facts['lost_turns']:,} turns are not trained on: the template rewrites them once others follow")
    return "; ".join(told) + "\n" if told else ""


def sparkline(values: list[float], width: int) -> str:
    """Return a curve of at most `width` block characters, each the mean of its share of the values."""
    count = min(len(values), max(1, width))
    bounds = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
