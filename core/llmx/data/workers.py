"""Processes that encode blocks for this one.

They are started as `python -m llmx.data.workers` and not forked, for a fork copies the locks that threads hold, nor
through `multiprocessing`, which would run a user's script again in each. They end when their input does, so also when
this process is killed. A tokenizer goes to them as the files that it saves, as a run does later.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Self

from attrs import frozen

from llmx.data.blocks import Block, Tokens, encode_block
from llmx.errors import LlmxError, PluginError

if TYPE_CHECKING:
    from llmx.data.encode import Encoder

ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What tells the libraries in a worker that the other cores have workers of their own."""


class UnsendableError(LlmxError):
    """An encoder cannot be made anew in another process."""


@frozen
class Parcel:
    """An encoder as it is sent to another process.

    Attributes:
        tokenizer_class: module and name; its `load` reads `files`.
        files: what the tokenizer saved, by the path in its folder.
        rest: the encoder, pickled without its tokenizer.
    """

    tokenizer_class: tuple[str, str]
    files: Mapping[str, bytes]
    rest: bytes

    @classmethod
    def pack(cls, encoder: Encoder) -> Self:
        """Pack an encoder.

        Raises:
            UnsendableError: a part of it can be neither pickled nor saved.
        """
        tokenizer = encoder.tokenizer
        kind = type(tokenizer)
        if not (hasattr(tokenizer, "save") and hasattr(kind, "load")):
            raise UnsendableError(f"{kind.__qualname__} has no save and load")
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        pickler.left_out = tokenizer
        try:
            pickler.dump(encoder)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UnsendableError(f"{type(error).__name__}: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder))
            found = [path for path in Path(folder).rglob("*") if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        return cls((kind.__module__, kind.__qualname__), files, buffer.getvalue())

    def unpack(self) -> Encoder:
        """Return an encoder that makes the same tokens."""
        kind: Any = importlib.import_module(self.tokenizer_class[0])
        for name in self.tokenizer_class[1].split("."):
            kind = getattr(kind, name)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            unpickler = _Unpickler(io.BytesIO(self.rest))
            unpickler.tokenizer = kind.load(Path(folder))
            encoder: Encoder = unpickler.load()
        return encoder


class _Pickler(pickle.Pickler):
    left_out: object

    def persistent_id(self, obj: Any) -> Any:
        return "tokenizer" if obj is self.left_out else None


class _Unpickler(pickle.Unpickler):
    tokenizer: object

    def persistent_load(self, pid: Any) -> Any:
        return self.tokenizer


class WorkerPool:
    """Worker processes that have an encoder.

    Args:
        count: how many.

    Raises:
        UnsendableError: the encoder cannot be sent to them.
    """

    def __init__(self, encoder: Encoder, count: int) -> None:
        parcel = Parcel.pack(encoder)
        path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", "llmx.data.workers"]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="llmx-worker")
        try:
            for _ in range(count):
                pipe = subprocess.PIPE
                self._processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment))
            for process in self._processes:
                _send(process, pickle.dumps(parcel))
            for process in self._processes:
                fault = _receive(process)
                if fault is not None:
                    raise UnsendableError(fault)
                self._free.put(process)
        except BaseException:
            self.close()
            raise

    def submit(self, block: Block) -> Future[Tokens]:
        """Have a block encoded by the next worker that is free."""
        return self._threads.submit(self._encode, pickle.dumps(block, protocol=pickle.HIGHEST_PROTOCOL))

    def _encode(self, block: bytes) -> Tokens:
        process = self._free.get()
        try:
            _send(process, block)
            answer = _receive(process)
        finally:
            self._free.put(process)
        if isinstance(answer, BaseException):
            raise answer
        tokens: Tokens = answer
        return tokens

    def close(self) -> None:
        """End the workers, in the middle of a block too."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()


def _send(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(message)
        process.stdin.flush()
    except BrokenPipeError:
        raise _ended(process) from None


def _receive(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise _ended(process) from None


def _ended(process: subprocess.Popen[bytes]) -> LlmxError:
    code = process.wait()
    why = "it was killed, perhaps for want of memory: give --workers less" if code == -signal.SIGKILL else "see above"
    return LlmxError(f"data: a worker process ended with code {code}: {why}; what is done is kept")


# --- in the worker --------------------------------------------------------------------------------------------------


def main() -> None:
    """Encode blocks from stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one says when it ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    blocks = sys.stdin.buffer
    try:
        encoder = pickle.load(blocks).unpack()
    except Exception as error:  # whatever a stranger's class does: the other side encodes by itself then
        _answer(answers, f"{type(error).__name__}: {error}")
        return
    _answer(answers, None)
    while True:
        try:
            block = pickle.load(blocks)
        except EOFError:
            return
        try:
            tokens = encode_block(encoder, block)
        except Exception as error:  # it is raised again on the other side
            _answer(answers, sendable(error, "tokenizer"))
        else:
            _answer(answers, tokens)


def sendable(error: Exception, who: str) -> LlmxError:
    """Return an error of the same text and exit code that survives pickling; a fault in code keeps its traceback."""
    if not isinstance(error, LlmxError):
        return PluginError(f"{who}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except TypeError:  # its class is made with other arguments than it keeps
        plain = LlmxError(str(error))
        plain.exit_code = error.exit_code
        return plain
    return error


def _answer(answers: IO[bytes], what: object) -> None:
    try:
        pickle.dump(what, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
    except BrokenPipeError:  # the other side is gone, and with it the need
        sys.exit(0)


if __name__ == "__main__":
    main()
