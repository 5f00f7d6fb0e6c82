"""Token stores that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from llmx.data.store import FORMAT, ShardWriter, TokenStore

MakeStore = Callable[..., TokenStore]


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Write a store of these documents in shards of about `shard_tokens`, and open it."""

    def make(
        documents: Sequence[Sequence[int]],
        masks: Sequence[Sequence[bool] | None] | None = None,
        shard_tokens: int = 10**6,
    ) -> TokenStore:
        folder = tmp_path_factory.mktemp("store")
        writers = {name: ShardWriter(folder, name, 2**31) for name in ("train", "val")}
        for ids, mask in zip(documents, masks or [None] * len(documents), strict=True):
            writers["train"].add(np.asarray(ids, np.int32), len(ids), mask)
            if writers["train"].waiting_tokens >= shard_tokens:
                writers["train"].flush()
        for writer in writers.values():
            writer.flush()
        splits = {name: writer.summary() for name, writer in writers.items()}
        (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "splits": splits}))
        return TokenStore(folder, "train")

    return make
