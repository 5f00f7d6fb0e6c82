"""What trackers share: one series over kills and resumes, one warning where the client fails, signals left alone.

A client writes rows late: wandb holds back up to 64 kB, swanlab 8 kB, trackio half a second. A kill loses those, also
rows from before the newest checkpoint. So a checkpoint keeps the newest rows of a tracker, and a resumed run sends
again what the tracker does not hold of them, and never what it holds: it reads the last step of each metric where
the client wrote it. A row sent before the kill is equal to the one that the resumed run computes again, unless the
resume changed the recipe.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmx import LlmxError, PluginError, hookimpl

if TYPE_CHECKING:
    from llmx.assembly import Run
    from llmx_loggers.options import TrackerOptions

KEPT_ROWS = 256
"""Rows that a checkpoint keeps: more than any client holds back, and about 60 kB."""

Values = Mapping[str, float]


class Tracker(ABC):
    """A logger that gives the rows of a run to a client.

    Attributes:
        last: the newest step of each metric that the client holds of this run.
        floor: the same for a metric that is not in `last`.
        running: the client has started, so what goes wrong is a warning from now on.
        advice: what a user may do who has no network or no account.
    """

    name: str
    advice = ""

    def __init__(self, options: TrackerOptions, run: Run) -> None:
        self.every = options.every
        self.timeout_s = options.timeout_s
        self.last: dict[str, int] = {}
        self.floor = 0
        self._rows: deque[tuple[int, Values]] = deque(maxlen=KEPT_ROWS)
        self._sent = self._lost = 0
        self.running = self._closed = self._warned = False

    # --- what a client adds -----------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, run: Run, first_step: int) -> None:
        """Open the client's run `run.id`, new or to go on with, and set `last` and `floor` if it holds rows.

        Args:
            first_step: no row before this step will be sent.
        """

    @abstractmethod
    def send(self, step: int, values: Values) -> None:
        """Give a row to the client. Steps never go back."""

    @abstractmethod
    def stop(self, error: BaseException | None) -> None:
        """Close the client's run with what ended it. May be called from another thread than `start`."""

    def flush(self) -> None:  # noqa: B027 - most clients cannot be asked to
        """Write out what was sent, where the client can be asked to."""

    # --- events -----------------------------------------------------------------------------------------------------

    @hookimpl
    def llmx_before_run(self, run: Run) -> None:
        first_step = self._rows[0][0] if self._rows else run.state.step + 1
        try:
            with undisturbed():
                self.start(run, first_step)
        except LlmxError:
            raise
        except Exception as error:  # a client may raise anything
            raise self.refusal(f"could not start: {reason(error)}") from error
        self.running = True
        for step, values in self._rows:
            self._send(step, values)

    @hookimpl
    def llmx_after_step(self, metrics: dict[str, float]) -> None:
        step = int(metrics["step"])
        if step % self.every == 0:
            self._log(step, {name: float(value) for name, value in metrics.items() if name != "step"})

    @hookimpl
    def llmx_after_eval(self, metrics: dict[str, float]) -> None:
        # the row of the step has the tokens already
        values = {name: float(value) for name, value in metrics.items() if name not in ("step", "tokens")}
        self._log(int(metrics["step"]), values)

    @hookimpl
    def llmx_after_run(self) -> None:
        self._finish(None)

    @hookimpl
    def llmx_run_failed(self, error: BaseException) -> None:
        self._finish(error)

    def state_dict(self) -> dict[str, Any]:
        if self.running:
            self._try(self.flush)
        return {"rows": json.dumps(list(self._rows))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows = [(step, values) for step, values in json.loads(state["rows"])]
        if len(rows) == KEPT_ROWS:  # of the first step, an earlier row may be gone
            rows = [row for row in rows if row[0] > rows[0][0]]
        self._rows.extend(rows)

    # --- guarding ---------------------------------------------------------------------------------------------------

    def refusal(self, text: str) -> PluginError:
        """Return the error for a tracker that cannot be used."""
        return PluginError(f"logger {self.name}: {text}" + (f"; {self.advice}" if self.advice else ""))

    def warn(self, text: str) -> None:
        """Say once that something was not logged; the run goes on."""
        if not self._warned:
            self._warned = True
            self.say(f"{text}; the run goes on")

    def say(self, text: str) -> None:
        """Write a line for the user."""
        sys.stderr.write(f"llmx: logger {self.name}: {text}\n")

    def _log(self, step: int, values: Values) -> None:
        self._rows.append((step, values))
        if self.running:
            self._send(step, values)

    def _send(self, step: int, values: Values) -> None:
        new = {name: value for name, value in values.items() if step > self.last.get(name, self.floor)}
        if new:
            self._sent += 1
            self._lost += not self._try(self.send, step, new)

    def _finish(self, error: BaseException | None) -> None:
        if not self.running or self._closed:
            return
        self._closed = True
        with undisturbed():
            self._try(within, self.timeout_s, self.stop, error)
        if self._lost:
            self.say(f"{self._lost} of {self._sent} rows were lost")

    def _try(self, action: Callable[..., None], *arguments: Any) -> bool:
        try:
            action(*arguments)
        except Exception as error:  # whatever a client raises must not end the run
            self.warn(reason(error))
            return False
        return True


def require(name: str, module: str) -> Any:
    """Import the client of tracker `name`, which is also the name of its extra.

    Raises:
        PluginError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PluginError(f"logger {name}: needs the package {error.name!r}: pip install 'llmx[{name}]'") from error


def reason(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def within(seconds: float, action: Callable[..., None], *arguments: Any) -> None:
    """Call `action` and wait for it no longer than that: a client without network may try forever.

    Raises:
        TimeoutError: it is not done; it goes on in its thread, which does not keep the process alive.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            action(*arguments)
        except BaseException as error:  # raised again below, in the thread that waits
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"not finished after {seconds:g} s, what is not sent yet is lost or on disk only")
    if raised:
        raise raised[0]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the run's random numbers, signal handlers and hooks of `sys` while a client works, and its banners back."""
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    excepthook, leave, drawn = sys.excepthook, sys.exit, random.getstate()  # swanlab draws a colour
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.excepthook, sys.exit = excepthook, leave
        random.setstate(drawn)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
