"""Jobs done by several threads, results as they come; leaving early leaves nothing behind that blocks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job], threads: int) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result; one is begun only when another is done.

    The threads are daemons: when the caller stops reading or the program ends, none begins another job.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Job, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()
    for job in jobs:
        waiting.put(job)

    def run() -> None:
        while not stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((job, work(job), None))
            except BaseException as error:  # raised where the results are read
                done.put((job, None, error))

    for _ in range(min(threads, len(jobs))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in jobs:
            job, result, error = done.get()
            if error is not None:
                raise error
            yield job, result  # type: ignore[misc]  # without an error there is a result
    finally:
        stopped.set()
