"""The model's part of a step: a chunk of a prompt, or one token for several sequences.

Shapes: `B` sequences, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmx.generate.sequence import Running
from llmx.nn.packed import SIZES
from llmx.protocols import Cache, Model


def device_of(model: Model) -> torch.device:
    """Return where a model computes: its embedding may lie elsewhere (`train.host_embedding`)."""
    inside = itertools.chain.from_iterable(block.parameters() for block in model.blocks())
    parameters: Iterator[nn.Parameter] = itertools.chain(inside, cast(nn.Module, model).parameters())
    return next(parameters).device


def prompt_logits(running: Running, tokens: int) -> Tensor | None:
    """Compute the next `tokens` of a prompt; return the logits after its last one, `[V]`, once it is whole."""
    model, start = running.model, running.computed
    if running.cache is None:
        running.cache = model.new_cache(1, running.capacity)
    ids = running.ids[start : start + tokens]
    hidden_BTD = model.hidden(torch.tensor([ids], device=device_of(model)), cache=running.cache)
    running.computed += len(ids)
    return None if running.prefilling else _head(model, hidden_BTD[:, -1:])[0, -1]


def next_logits(rows: Sequence[Running]) -> Tensor:
    """Compute the token each sequence had last; return `logits_BV`. They are of one model."""
    model = rows[0].model
    caches: list[Cache] = [row.cache for row in rows if row.cache is not None]
    join = getattr(caches[0], "rows", None)
    step = getattr(model, "one_token", None)
    if step is not None:
        found = [step(row.last, cache)[None] for row, cache in zip(rows, caches, strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found)
    if join is None or not getattr(model, "rows_alone", False):
        # a cache for sequences of one length, or products whose rows would depend on how many there are
        return torch.cat([_step(model, [row.last], cache) for row, cache in zip(rows, caches, strict=True)])
    found = []
    while caches:
        size = max(each for each in (1, *SIZES) if each <= len(caches))  # of others it is not proved
        now, caches = caches[:size], caches[size:]
        last, rows = [row.last for row in rows[:size]], rows[size:]
        if size == 1:
            found.append(_step(model, last, now[0]))
        else:
            found.append(_step(model, last, join(now), [cache.length for cache in now]))
    return found[0] if len(found) == 1 else torch.cat(found)


def _step(model: Model, last: list[int], cache: Cache, lengths: list[int] | None = None) -> Tensor:
    device = device_of(model)
    ids_BT = torch.tensor(last, device=device)[:, None]
    positions_BT = None if lengths is None else torch.tensor(lengths, device=device)[:, None]
    return _head(model, model.hidden(ids_BT, positions_BT=positions_BT, cache=cache))[:, -1]


def _head(model: Model, hidden_BTD: Tensor) -> Tensor:
    """Return fp32 logits on the CPU, where tokens are drawn."""
    head = getattr(model, "head", None)
    logits_BTV = F.linear(hidden_BTD, model.head_weight()) if head is None else head(hidden_BTD)
    return logits_BTV.float().cpu()
