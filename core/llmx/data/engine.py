"""Engines: how the blocks of a corpus come to be encoded in parallel, in their order."""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmx.data.blocks import Block, Reader, Tokens, encode_block
from llmx.data.workers import UnsendableError, WorkerPool

if TYPE_CHECKING:
    from llmx.data.encode import Encoder

EngineName: TypeAlias = Literal["local", "ray"]

Blocks: TypeAlias = Generator[tuple[Block, Tokens], None, None]

START_CHARS = 8_000_000
"""Text that this process encodes by itself before it starts workers, which take a second or two to be of use."""
MOST_WORKERS = 32
"""Workers when none are asked for: one process reads, splits and writes about as fast as these encode."""
LEAST_CORES = 4
"""Cores from which on chats are worth workers: writing a chat takes Python as long as the tokenizer takes, and with two
cores the workers' setting up costs more than they save."""
MOST_THREADS = 16
"""Threads of a tokenizer that a block in this process is made large enough for; more would take memory for little."""


def encode(engine: EngineName, reader: Reader, encoder: Encoder, workers: int | None) -> Blocks:
    """Yield every block with its tokens, in order; the tokens depend on neither the engine nor the workers.

    Args:
        workers: processes that encode; 1 is this one alone. None chooses: for chats, which templates in Python write,
            one for each core; for plain text this process, since tokenizers have threads of their own (measured on two
            cores: 2.6 million tokens a second with them, 1.6 million in two processes).
    """
    if engine == "ray":
        from llmx.data.ray_engine import encode_on_ray

        return encode_on_ray(reader, encoder, workers)
    return encode_here(reader, encoder, workers)


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_here(reader: Reader, encoder: Encoder, workers: int | None) -> Blocks:
    """Encode in a thread, while this one reads and writes, and beyond `START_CHARS` in worker processes."""
    blocks = iter(reader)
    first = next(blocks, None)
    if first is None:
        return
    count = workers or _workers_for(first)
    blocks = itertools.chain([first], blocks)
    if count == 1:
        blocks = _joined(blocks, min(cores(), MOST_THREADS))
    waiting: deque[tuple[Block, Future[Tokens]]] = deque()
    with ExitStack() as stack:
        thread = ThreadPoolExecutor(1, thread_name_prefix="llmx-encode")
        stack.callback(thread.shutdown, wait=True, cancel_futures=True)
        submit: Callable[[Block], Future[Tokens]] = partial(_submit, thread, encoder)
        room, chars, alone = 2, 0, count == 1
        for block in blocks:
            if not alone and chars >= START_CHARS:
                pool, alone = _start(encoder, count), True
                if pool is not None:
                    stack.callback(pool.close)
                    submit, room = pool.submit, count + 2
            chars += block.chars
            waiting.append((block, submit(block)))
            if len(waiting) > room:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _workers_for(first: Block) -> int:
    """Return how many workers a corpus that begins like this is worth."""
    chats = bool(first.documents[0].messages)
    return min(cores(), MOST_WORKERS) if chats and cores() >= LEAST_CORES else 1


def _submit(thread: ThreadPoolExecutor, encoder: Encoder, block: Block) -> Future[Tokens]:
    return thread.submit(encode_block, encoder, block)


def _joined(blocks: Iterator[Block], count: int) -> Iterator[Block]:
    """Yield blocks of `count` blocks each, so that every thread of a tokenizer has something to do."""
    while several := list(itertools.islice(blocks, count)):
        for block in several[1:]:
            several[0].extend(block)
        yield several[0]


def _next(waiting: deque[tuple[Block, Future[Tokens]]]) -> tuple[Block, Tokens]:
    block, tokens = waiting.popleft()
    return block, tokens.result()


def _start(encoder: Encoder, workers: int) -> WorkerPool | None:
    """Start workers; where the encoder cannot be sent to them this process goes on alone, and says so."""
    try:
        return WorkerPool(encoder, workers)
    except UnsendableError as error:
        sys.stderr.write(f"llmx: encoding in one process, for the tokenizer cannot be sent to others: {error}\n")
        return None
