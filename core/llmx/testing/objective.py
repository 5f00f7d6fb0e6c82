"""What every objective must keep, on a small reference model.

Shapes: `B` rows, `T` tokens, `D` width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmx.protocols import IGNORE, Batch
from llmx.testing.frame import NotApplicable, Subject
from llmx.testing.reference import (
    VOCAB,
    ReferenceModel,
    batch_of,
    loss_sum,
    random_batch,
    random_ids,
    reference_model,
)

Objective = Any

ROUNDING = 1e-5
"""Largest relative difference of sums of fp32 losses that the order of the sum explains."""

KNOWN = {"causal-lm": loss_sum, "chat": loss_sum}
"""Objectives whose formula the kit knows."""


def _batch(objective: Objective, rows: int = 4, seed: int = 0) -> Batch:
    """Return a batch of what the objective reads: rows of one document each, or of two preference pairs each."""
    batch = random_batch(rows, seed=seed)
    if not getattr(objective, "pairs", False):
        return batch
    places_T = torch.arange(batch.ids_BT.shape[1]).expand_as(batch.ids_BT)
    labels_BT = torch.where(places_T % 4 == 1, batch.ids_BT.roll(-1, 1), batch.labels_BT)  # each document has one
    labels_BT = torch.where(places_T % 4 == 3, IGNORE, labels_BT)  # its last token is followed by another's first
    return batch_of(batch.ids_BT, labels_BT, (places_T // 4).int(), places_T % 4)


def _part(batch: Batch, rows: slice, columns: slice = slice(None)) -> Batch:
    """Return some rows and positions of a batch; documents are numbered from the first of them."""
    documents_BT, positions_BT = batch.documents_BT, batch.positions_BT
    if documents_BT is not None and positions_BT is not None:
        documents_BT = documents_BT[rows, columns]
        documents_BT, positions_BT = documents_BT - documents_BT[:, :1], positions_BT[rows, columns]
    return batch_of(batch.ids_BT[rows, columns], batch.labels_BT[rows, columns], documents_BT, positions_BT)


def _count(objective: Objective, batch: Batch) -> int:
    """Return what a run divides the loss of a batch by."""
    count: int = objective.count(batch) if hasattr(objective, "count") else batch.count
    return count


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs() <= ROUNDING * wanted.abs().clamp(min=1.0))


def _gradient(loss: Tensor, model: ReferenceModel) -> Tensor:
    """Return the gradient of a loss over all parameters as one vector."""
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = zip(grads, model.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def scalar_in_fp32(subject: Subject) -> None:
    """The loss is one finite number in fp32, in mixed precision too."""
    model, objective = reference_model(), subject.build()
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = objective(model, _batch(objective))
        assert isinstance(loss, Tensor), f"the loss is a {type(loss).__name__}, want a tensor"
        assert loss.ndim == 0, f"the loss has the shape {list(loss.shape)}, want one number: the sum over the batch"
        assert loss.dtype == torch.float32, f"the loss is in {loss.dtype} when matrices are in {precision}, want fp32"
        assert bool(loss.isfinite()), f"the loss is {float(loss.detach())} when matrices are in {precision}"


def sum_over_rows(subject: Subject) -> None:
    """The loss of a batch is the sum of its rows' losses, so that micro-batches change nothing."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective, rows=5)
    cuts = [_part(batch, rows) for rows in (slice(0, 1), slice(1, 2), slice(2, 5))]
    with torch.no_grad():
        whole = objective(model, batch)
        parts = [objective(model, cut) for cut in cuts]
    counts = [_count(objective, each) for each in (batch, *cuts)]
    assert counts[0] == sum(counts[1:]), (
        f"it counts {counts[0]} in a batch of 5 rows, and {sum(counts[1:])} in its rows apart"
    )
    total = torch.stack(parts).sum()
    assert _close(total, whole), (
        f"a batch of 5 rows gives {float(whole):.5f}, its rows apart {float(total):.5f} in sum: "
        "an objective is a sum over counted tokens; the run divides by their count"
    )


def ignored_labels(subject: Subject) -> None:
    """A position whose label is IGNORE adds nothing: what stands there or after it may be anything."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    cut = batch.ids_BT.shape[1] // 2
    labels_BT = batch.labels_BT.clone()
    labels_BT[:, cut:] = IGNORE
    labels_BT[-1] = IGNORE
    ids_BT = batch.ids_BT.clone()
    ids_BT[:, cut:] = (ids_BT[:, cut:] + 1) % VOCAB
    ids_BT[-1] = (ids_BT[-1] + 1) % VOCAB
    with torch.no_grad():
        wanted, found = (
            objective(model, batch_of(ids, labels_BT, batch.documents_BT, batch.positions_BT))
            for ids in (batch.ids_BT, ids_BT)
        )
        without = objective(model, _part(batch, slice(0, -1), slice(0, cut)))
    assert _close(found, wanted), (
        f"other tokens at positions that do not count change the loss from {float(wanted):.5f} to {float(found):.5f}"
    )
    assert _close(without, wanted), (
        f"without its positions that do not count, a batch of loss {float(wanted):.5f} has {float(without):.5f}"
    )


def nothing_counted(subject: Subject) -> None:
    """A batch in which no label counts has the loss 0 and a gradient of 0."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    none_BT = torch.full_like(batch.labels_BT, IGNORE)
    loss = objective(model, batch_of(batch.ids_BT, none_BT, batch.documents_BT, batch.positions_BT))
    assert float(loss.detach()) == 0, f"the loss of a batch without counted labels is {float(loss.detach())}, want 0"
    assert loss.requires_grad, "the loss of a batch without counted labels has no gradient, and a run's backward fails"
    worst = float(_gradient(loss, model).abs().nan_to_num(nan=torch.inf).max())
    assert worst == 0, f"the gradient of a batch without counted labels is up to {worst}, want 0"


def gradient_arrives(subject: Subject) -> None:
    """The gradient reaches every parameter, and a small step against it lowers the loss."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    loss = objective(model, batch)
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
        assert grad is not None, f"no gradient reaches {name}: was the model called under no_grad, or detached?"
        assert bool(grad.isfinite().all()), f"the gradient of {name} is not finite"
        assert bool(grad.any()), f"the gradient of {name}, of shape {list(parameter.shape)}, is 0"
    length = float(torch.cat([grad.flatten() for grad in grads]).norm())
    with torch.no_grad():
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter.sub_(grad, alpha=0.01 / length)
        lower = objective(model, batch)
    assert lower < loss, (
        f"a step of 0.01 against the gradient takes the loss from {float(loss.detach()):.5f} to {lower:.5f}"
    )


def gradient_scales(subject: Subject) -> None:
    """A part of the loss has that part of the gradient: a run divides the loss before its backward."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    whole = _gradient(objective(model, batch), model)
    eighth = _gradient(objective(model, batch) / 8, model)
    off = float((8 * eighth - whole).norm() / whole.norm())
    assert off <= ROUNDING, f"the gradient of an eighth of the loss is off an eighth of the gradient by {off:.1e}"


def learns_the_labels(subject: Subject) -> None:
    """Twenty steps of Adam on one batch make its labels more likely; of pairs, the better sides' than the worse's."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = _entropy(model, batch)
    for _ in range(20):
        optimizer.zero_grad()
        (objective(model, batch) / _count(objective, batch)).backward()
        optimizer.step()
    after = _entropy(model, batch)
    of = "the labels" if batch.documents_BT is None else "the better sides of pairs, less that of the worse,"
    assert after < before, (
        f"the cross-entropy of {of} went from {before:.3f} to {after:.3f} nats: "
        "labels_BT holds what each position itself should predict, and the loss is to be lowered"
    )


def _entropy(model: ReferenceModel, batch: Batch) -> float:
    """Return the cross-entropy of the labels; of preference pairs, of the better sides less that of the worse."""
    with torch.no_grad():
        if batch.documents_BT is None:
            return float(loss_sum(model, batch))
        sides = (torch.where(batch.documents_BT % 2 == side, batch.labels_BT, IGNORE) for side in (0, 1))
        better, worse = (
            loss_sum(model, batch_of(batch.ids_BT, labels_BT, batch.documents_BT, batch.positions_BT))
            for labels_BT in sides
        )
        return float(better - worse)


def documents_apart(subject: Subject) -> None:
    """Packed documents count as if each were a row of its own: the model is told documents and positions."""
    model, objective = _positioned(), subject.build()
    if getattr(objective, "pairs", False):
        batch = _batch(objective, rows=1)
        with torch.no_grad():
            packed = objective(model, batch)
            alone = [objective(model, _part(batch, slice(None), cut)) for cut in (slice(0, 8), slice(8, 16))]
        total = torch.stack(alone).sum()
        assert _close(packed, total), (
            f"two pairs in a row give {float(packed):.5f}, alone {float(total):.5f} in sum: "
            "give the model batch.documents_BT and batch.positions_BT"
        )
        return
    ids_BT = random_ids(1, 16, VOCAB)
    labels_BT, cuts = random_ids(1, 16, VOCAB, seed=1), [slice(0, 5), slice(5, 6), slice(6, 16)]
    labels_BT[:, [4, 5, 15]] = IGNORE
    documents_BT, positions_BT = torch.zeros(1, 16, dtype=torch.int32), torch.zeros(1, 16, dtype=torch.long)
    for number, cut in enumerate(cuts):
        documents_BT[:, cut] = number
        positions_BT[:, cut] = torch.arange(cut.stop - cut.start)
    with torch.no_grad():
        packed = objective(model, batch_of(ids_BT, labels_BT, documents_BT, positions_BT))
        alone = [objective(model, batch_of(ids_BT[:, cut], labels_BT[:, cut])) for cut in cuts]
    total = torch.stack(alone).sum()
    assert _close(packed, total), (
        f"three documents in a row give {float(packed):.5f}, alone {float(total):.5f} in sum: "
        "give the model batch.documents_BT and batch.positions_BT"
    )


def _positioned() -> ReferenceModel:
    """Return a reference model that sees absolute positions too: rotary ones are relative and would hide a fault."""
    model = reference_model()
    hidden = model.hidden

    def with_positions(ids_BT: Tensor, *, positions_BT: Tensor | None = None, **rest: Any) -> Tensor:
        places_BT = torch.arange(ids_BT.shape[1])[None] if positions_BT is None else positions_BT

        def add(_: Any, __: Any, x_BTD: Tensor) -> Tensor:
            return x_BTD + torch.sin(places_BT.float())[..., None]

        handle = model.model.embed_tokens.register_forward_hook(add)
        try:
            return hidden(ids_BT, positions_BT=positions_BT, **rest)
        finally:
            handle.remove()

    model.hidden = with_positions  # type: ignore[method-assign]
    return model


def no_state(subject: Subject) -> None:
    """Two calls give one number, and leave the batch, the weights and the mode of the model as they were."""
    model, objective = reference_model(), subject.build()
    batch = _batch(objective)
    names = [name for name in ("ids_BT", "labels_BT", "documents_BT") if getattr(batch, name) is not None]
    before = {name: getattr(batch, name).clone() for name in names}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first = objective(model, batch).detach()
    objective(model, _batch(objective, seed=1))
    again = objective(model, batch).detach()
    for name in names:
        assert torch.equal(getattr(batch, name), before[name]), f"batch.{name} was changed"
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), f"the weight {name} was changed"
    assert model.training, "the model was put into evaluation mode"
    assert torch.equal(again, first), f"one batch gives {float(first)} at first, and {float(again)} after another batch"


def meta_device(subject: Subject) -> None:
    """It runs on the meta device, where a dry run measures what a backward keeps."""
    objective = subject.build()
    loss = objective(reference_model().to("meta"), _to_meta(_batch(objective)))
    assert loss.device.type == "meta", f"the loss of a model on the meta device is on {loss.device}"


def _to_meta(batch: Batch) -> Batch:
    parts = (batch.ids_BT, batch.labels_BT, batch.documents_BT, batch.positions_BT)
    ids, labels, documents, positions = (None if each is None else each.to("meta") for each in parts)
    assert ids is not None
    assert labels is not None
    return Batch(ids, labels, documents, positions, batch.count)


def known_formula(subject: Subject) -> None:
    """An objective of a known name gives the loss and the gradient of torch's own cross-entropy."""
    name = subject.part.offer.component.name
    if name not in KNOWN:
        raise NotApplicable(f"the kit knows no formula of {name!r} (it knows {', '.join(KNOWN)})")
    model, objective, batch = reference_model(), subject.build(), random_batch()
    found, wanted = objective(model, batch), KNOWN[name](model, batch)
    assert _close(found.detach(), wanted.detach()), (
        f"the loss is {float(found.detach())}, want {float(wanted.detach())}"
    )
    gradient = _gradient(wanted, model)
    off = float((_gradient(found, model) - gradient).norm() / gradient.norm())
    assert off <= ROUNDING, f"the gradient differs from that of the plain formula by {off:.1e} of its length"


CHECKS = (
    scalar_in_fp32,
    sum_over_rows,
    ignored_labels,
    nothing_counted,
    gradient_arrives,
    gradient_scales,
    learns_the_labels,
    documents_apart,
    no_state,
    meta_device,
    known_formula,
)
