"""What every model must keep.

Shapes: `B` rows, `T` tokens, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmx.data.batches import positions_in
from llmx.testing import TOLERANCE, check_cached_decoding
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.model_structure import (
    VOCAB,
    blocks_in_order,
    config_round_trip,
    context_length,
    flops,
    meta_device,
    roles,
    seeded,
    state_dict,
    tiny,
)
from llmx.testing.reference import difference, random_ids

BF16_TOLERANCE = 0.1
"""Largest root-mean-square error of a position's bf16 logits, as a part of them, for half of the positions: bf16 rounds
each number by up to 0.4 %, and that adds up over a dozen layers. A model that sends a token to one of several experts
may send a few elsewhere."""

MODES = ((False, torch.no_grad), (True, contextlib.nullcontext))
"""Evaluation and training: a model may take other kernels when gradients are wanted."""


def _length(model: Any, most: int = 24) -> int:
    return min(most, int(model.context_length))


def head(subject: Subject) -> None:
    """Logits are the hidden states times the head's weight, one for every token and entry of the vocabulary."""
    model = tiny(subject)
    ids_BT = random_ids(2, _length(model), model.vocab_size)
    with torch.no_grad():
        logits_BTV, hidden_BTD, weight_VD = model(ids_BT), model.hidden(ids_BT), model.head_weight()
    assert model.vocab_size >= VOCAB, f"vocab_size is {model.vocab_size}, the constructor was given {VOCAB}"
    wanted = [*ids_BT.shape, model.vocab_size]
    assert list(logits_BTV.shape) == wanted, f"logits have the shape {list(logits_BTV.shape)}, want {wanted}"
    off = difference(F.linear(hidden_BTD, weight_VD), logits_BTV)
    assert off <= TOLERANCE, (
        f"hidden() times head_weight() is off the logits by {off:.1e} (allowed {TOLERANCE:.0e}): "
        "an objective makes its loss from them, so what scales or bounds logits belongs before the head"
    )


def causality(subject: Subject) -> None:
    """A token changes the logits at its own position and after it, and none before it."""
    model = tiny(subject)
    length = _length(model)
    ids_BT = random_ids(2, length, model.vocab_size)
    for training, gradients in MODES:
        with gradients():
            before_BTV = model(ids_BT).detach()
            for place in sorted({1, length // 2, length - 1}):
                other_BT = ids_BT.clone()
                other_BT[:, place] = (other_BT[:, place] + 1) % model.vocab_size
                after_BTV = model(other_BT).detach()
                off = difference(after_BTV[:, :place], before_BTV[:, :place])
                where = f"{'with' if training else 'without'} gradients, token {place} of {length}"
                assert off <= TOLERANCE, f"{where} changes logits before it by {off:.1e}: they see the future"
                changed_T = (after_BTV != before_BTV).any(-1).any(0)
                assert changed_T[place], f"{where} changes no logits at its own position"
                assert changed_T[place + 1 :].any() or place == length - 1, f"{where} changes no logits after it"


def cached_decoding(subject: Subject) -> None:
    """Decoding with a cache gives the logits of the full forward."""
    check_cached_decoding(tiny(subject))


def rows_apart(subject: Subject) -> None:
    """A row's logits do not depend on the other rows of its batch."""
    model = tiny(subject)
    ids_BT = random_ids(3, _length(model), model.vocab_size)
    for training, gradients in MODES:
        with gradients():
            batch_BTV = model(ids_BT).detach()
            for row in range(3):
                off = difference(batch_BTV[row], model(ids_BT[row : row + 1]).detach()[0])
                where = f"row {row} of 3, {'with' if training else 'without'} gradients"
                assert off <= TOLERANCE, f"{where}: its logits in the batch and alone differ by {off:.1e}"


def documents_apart(subject: Subject) -> None:
    """Packed documents do not see each other: each has the logits it has alone; padding (document -1) is harmless."""
    model = tiny(subject)
    length = _length(model)
    if length < 8:
        raise NotApplicable(f"a context of {length} tokens holds no documents to pack")
    ids_BT = random_ids(2, length, model.vocab_size)
    cuts = [[0, length // 3, length // 3 + 1, length - 2], [0, length // 2, length]]
    documents_BT = torch.full((2, length), -1, dtype=torch.int32)
    for row, ends in enumerate(cuts):
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            documents_BT[row, start:end] = number
    positions_BT = positions_in(documents_BT)
    for training, gradients in MODES:
        with gradients():
            packed_BTV = model(ids_BT, documents_BT=documents_BT, positions_BT=positions_BT).detach()
            assert bool(packed_BTV.isfinite().all()), "a row with padding at its end has logits that are not finite"
            for row, ends in enumerate(cuts):
                for start, end in itertools.pairwise(ends):
                    alone_TV = model(ids_BT[row : row + 1, start:end]).detach()[0]
                    off = difference(packed_BTV[row, start:end], alone_TV)
                    where = f"{'with' if training else 'without'} gradients, the document at {start} to {end} of a row"
                    assert off <= TOLERANCE, f"{where} has logits that are {off:.1e} off those it has alone"


def training_flag(subject: Subject) -> None:
    """Training mode gives the logits of evaluation mode, where no dropout was asked for."""
    named = [name for name in dir(subject.part.options) if any(word in name for word in ("drop", "noise", "jitter"))]
    if any(getattr(subject.part.options, name) for name in named if not name.startswith("_")):
        raise NotApplicable(f"the options ask for randomness in training: {', '.join(named)}")
    model = tiny(subject)
    ids_BT = random_ids(2, _length(model), model.vocab_size)
    with torch.no_grad():
        wanted_BTV = model.eval()(ids_BT)
    off = difference(model.train()(ids_BT).detach(), wanted_BTV)
    assert off <= TOLERANCE, f"logits in train() and eval() differ by {off:.1e} (allowed {TOLERANCE:.0e})"


def bf16(subject: Subject) -> None:
    """Under autocast to bf16 the logits are close to those in fp32, and a backward runs."""
    model = tiny(subject)
    ids_BT = random_ids(2, _length(model), model.vocab_size)
    wanted_BTV = model(ids_BT).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BTV = model(ids_BT)
    logits_BTV.float().square().mean().backward()
    off = float(((logits_BTV.detach().float() - wanted_BTV).norm(dim=-1) / wanted_BTV.norm(dim=-1)).median())
    assert off <= BF16_TOLERANCE, f"bf16 logits are off by {off:.0%} of the logits (allowed {BF16_TOLERANCE:.0%})"
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), f"{name}: its gradient is not finite"


def checkpointed_blocks(subject: Subject) -> None:
    """Gradient checkpointing of `blocks()` changes no gradient: a block run again gives what it gave."""
    plain, wrapped = (tiny(subject).train() for _ in range(2))
    for block in wrapped.blocks():
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    ids_BT = random_ids(2, _length(plain), plain.vocab_size)
    for model in (plain, wrapped):
        torch.manual_seed(0)
        model(ids_BT).square().mean().backward()
    for (name, parameter), other in zip(plain.named_parameters(), wrapped.parameters(), strict=True):
        if parameter.grad is None:
            assert other.grad is None, f"{name} has a gradient with checkpointing alone"
            continue
        assert other.grad is not None, f"{name} has no gradient with checkpointing"
        off = float((parameter.grad - other.grad).norm() / parameter.grad.norm().clamp(min=1e-12))
        assert off <= TOLERANCE, (
            f"{name}: its gradient differs by {off:.1e} with checkpointing (allowed {TOLERANCE:.0e})"
        )


def overfit(subject: Subject) -> None:
    """It learns a small batch by heart, beyond what the last token alone can tell."""
    model = tiny(subject, shake=False).train()
    ids_BT = random_ids(2, _length(model, 17), 3)
    inputs_BT, labels_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    enough = 0.5 * _bigram_loss(inputs_BT, labels_BT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    loss, steps = float("inf"), 200
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 10)
        total = F.cross_entropy(model(inputs_BT).flatten(0, 1), labels_BT.flatten())
        loss = float(total.detach())
        if loss < enough:
            return
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(
        f"after {steps} steps of AdamW on one batch of three different tokens the loss is {loss:.2f} nats, "
        f"want {enough:.2f}: does a position see those before it, and do all gradients arrive?"
    )


def _bigram_loss(inputs_BT: Tensor, labels_BT: Tensor) -> float:
    """Return the lowest mean loss in nats that is possible when a prediction depends on the last token alone."""
    pairs = torch.zeros(3, 3)
    pairs.index_put_((inputs_BT.flatten(), labels_BT.flatten()), torch.tensor(1.0), accumulate=True)
    parts = pairs / pairs.sum(1, keepdim=True).clamp(min=1)
    return float(-(pairs * parts.clamp(min=1e-9).log()).sum() / pairs.sum())


CHECKS = (
    head,
    causality,
    cached_decoding,
    rows_apart,
    documents_apart,
    training_flag,
    bf16,
    checkpointed_blocks,
    overfit,
    state_dict,
    config_round_trip,
    roles,
    flops,
    meta_device,
    seeded,
    blocks_in_order,
    context_length,
)
