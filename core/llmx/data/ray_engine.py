"""The Ray engine: one task of Ray Data reads a corpus, actors over the cluster encode it, and this process writes.

The readers' files must be where every machine of the cluster sees them. Tokens are those of the local engine, for the
blocks are the same and come back in order.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from llmx.data.blocks import BLOCK_CHARS, Block, Reader, Tokens, encode_block
from llmx.data.workers import ONE_THREAD, Parcel, UnsendableError, sendable
from llmx.errors import LlmxError, MissingPackageError, PluginError

if TYPE_CHECKING:
    from llmx.data.encode import Encoder


def encode_on_ray(reader: Reader, encoder: Encoder, workers: int | None) -> Generator[tuple[Block, Tokens], None, None]:
    """Yield every block with its tokens, in order, encoded on the cluster of `RAY_ADDRESS`, the one that runs on this
    machine, or one that is started now and ends with this process.

    Args:
        workers: actors that encode, of one core each; None takes as many as the cluster has cores.

    Raises:
        MissingPackageError: Ray is not installed.
        PluginError: the tokenizer or the dataset cannot be sent to other processes.
    """
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        text = f"--engine ray: needs the package {error.name!r}: pip install 'llmx[ray]'"
        raise MissingPackageError(text, str(error.name)) from error
    try:
        parcel, source = Parcel.pack(encoder), pickle.dumps(reader)
    except (UnsendableError, pickle.PicklingError, TypeError, AttributeError) as error:
        raise PluginError(
            f"--engine ray: this corpus or tokenizer cannot be sent to other machines: {error}"
        ) from error
    _join()
    # the reader takes no core for itself, so that a cluster with a single one does not wait for ever
    blocks = ray.data.read_datasource(_corpus(source), override_num_blocks=1, num_cpus=0)
    # Ray gathers rows to blocks of its own before it hands them on: small ones keep all actors busy
    blocks.context.target_max_block_size = 4 * BLOCK_CHARS
    blocks.context.enable_progress_bars = False
    blocks.context.execution_options.preserve_order = True
    count = workers or max(1, int(ray.cluster_resources()["CPU"]))
    tokens = blocks.map_batches(
        _Encode,
        fn_constructor_args=[parcel],
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=1,
    )
    try:
        for row in tokens.iter_rows():
            answer = pickle.loads(row["block"])
            if isinstance(answer, LlmxError):
                raise answer
            yield answer
    except ray.exceptions.RayError as error:  # a machine was lost, or lacks a package
        raise LlmxError(f"--engine ray: {str(error).strip().splitlines()[-1]}; what is done is kept") from error


def _join() -> None:
    """Join the cluster, with quiet logs: what is worth telling is told by the errors."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _corpus(source: bytes) -> Any:
    """Return a source for Ray Data with one task, in which the corpus is read as it is here."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Corpus(Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(lambda: _rows(source), unknown)]

    return Corpus()


def _rows(source: bytes) -> Iterable[Any]:
    """Yield each block of the corpus as a table of one row; an error is a row too, the last one."""
    try:
        for block in pickle.loads(source):
            yield _row(block)
    except Exception as error:  # it is raised again in the process that asked
        yield _row(sendable(error, "dataset"))


def _row(what: object) -> Any:
    import pyarrow as pa

    return pa.table({"block": pa.array([pickle.dumps(what)], pa.large_binary())})


class _Encode:
    """An actor with an encoder of its own."""

    def __init__(self, parcel: Parcel) -> None:
        os.environ.update(ONE_THREAD)
        self.encoder = parcel.unpack()

    def __call__(self, batch: Any) -> Any:
        block = pickle.loads(batch["block"][0].as_py())
        if isinstance(block, LlmxError):
            return _row(block)
        try:
            return _row((block, encode_block(self.encoder, block)))
        except Exception as error:  # as above
            return _row(sendable(error, "tokenizer"))
