"""One update of a run by shapes alone: what it holds and computes, every operation as on the real device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from llmx.errors import PluginError
from llmx.plan.track import Tracker
from llmx.protocols import Batch, Model
from llmx.recipe import Recipe
from llmx.train.device import autocast
from llmx.train.memory import recompute_blocks
from llmx.train.model import meta_model

FEW, MORE = 2, 4
"""Blocks of the two shortened models from which what equal blocks take is known."""

Captured = tuple[tuple[Any, ...], dict[str, Any]]


@frozen
class Update:
    """What an update takes beside the weights and the optimizer's state.

    Attributes:
        reference: bytes that the objective keeps of the model as it began.
        kept: bytes that a forward pass keeps for its backward pass.
        gradients: bytes of all gradients.
        first_forward: most bytes held during the first micro-batch's forward pass and its loss.
        first_backward: the same during its backward pass through the loss and the last block.
        first_end: and through the first block and the embedding; between the two it is between.
        later_forward: the same of a later micro-batch, which has all gradients beside it; 0 where there is only one.
        later_backward: the same.
        later_end: the same.
        forward_flops: floating-point operations of a micro-batch's forward pass.
        flops: of a whole micro-batch.
    """

    reference: float
    kept: float
    gradients: float
    first_forward: float
    first_backward: float
    first_end: float
    later_forward: float
    later_backward: float
    later_end: float
    forward_flops: float
    flops: float

    @property
    def peak(self) -> int:
        """Most bytes held at once."""
        first = (self.first_forward, self.first_backward, self.first_end)
        return round(max(*first, self.later_forward, self.later_backward, self.later_end))

    def towards(self, other: Update, share: float) -> Update:
        """Return this one moved by `share` of the way to another, and beyond it where that is more than 1."""
        ours, theirs = attrs.astuple(self), attrs.astuple(other)
        return Update(*(a + share * (b - a) for a, b in zip(ours, theirs, strict=True)))


def plan_update(
    recipe: Recipe, vocab_size: int, device: torch.device, precision: str, rows: int, length: int, *, several: bool
) -> Update:
    """Return what an update takes.

    Blocks that are alike are not all gone through: what few and what a few more take tells what all do.

    Args:
        rows: of a micro-batch.
        length: tokens of a row.
        several: an update has more than one micro-batch.

    Raises:
        PluginError: the model or the objective asks for the numbers in a tensor.
    """

    def computed(blocks: int | None) -> Update:
        model, _ = meta_model(recipe, vocab_size, precision)
        if blocks is not None:
            _shorten(model, blocks)
        return _compute(recipe, model, device, precision, rows, length, several=several)

    model, _ = meta_model(recipe, vocab_size, precision)
    count = len(model.blocks())
    if count <= MORE or not _alike(model):
        return computed(None)
    return computed(FEW).towards(computed(MORE), (count - FEW) / (MORE - FEW))


def _compute(
    recipe: Recipe, model: Model, device: torch.device, precision: str, rows: int, length: int, *, several: bool
) -> Update:
    mode, objective = FakeTensorMode(), recipe.objective.build()
    stand_in(cast(nn.Module, model), mode, device)
    recompute_blocks(model, recipe.train.checkpointing)
    cast(nn.Module, model).train()
    tracker = Tracker(tensors_of(cast(nn.Module, model)))
    after_last, before_first = _watch_backward(model, tracker)
    marks: list[int] = []

    def since(mark: int) -> list[int]:
        return tracker.history[mark:] or [tracker.held]

    def forward(batch: Batch) -> Tensor:
        marks.append(len(tracker.history))
        with autocast(precision, device):
            return cast(Tensor, objective(model, batch))

    try:
        with mode, tracker:
            batch = a_batch(rows, length, device)
            if hasattr(objective, "prepare"):
                before = tracker.held
                objective.prepare(model)
                reference = tracker.held - before
            else:
                reference = 0
            flops: list[float] = []
            peaks: list[int] = []
            kept = gradients = 0
            for _ in range(1 + several):
                began = tracker.held
                loss = forward(batch)
                flops.append(tracker.flops)
                kept = kept or tracker.held - began
                peaks.append(max(since(marks[-1])))
                mark = len(tracker.history)
                (loss / 1).backward()  # type: ignore[no-untyped-call]
                del loss
                done = since(mark)
                turns = [(after_last or [mark])[-1] - mark, (before_first or [mark])[-1] - mark]
                peaks += [max(done[: turns[0]] or done), max(done[turns[1] :] or done[-1:])]
                flops.append(tracker.flops)
            gradients = sum(_bytes(p.grad) for p in cast(nn.Module, model).parameters() if p.grad is not None)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        names = f"model {recipe.model.name!r} with objective {recipe.objective.name!r}"
        raise PluginError(
            f"{names}: asks for the numbers in a tensor, which a plan does not have: {str(error).splitlines()[0]}"
        ) from error
    later = peaks[3:] or [0, 0, 0]
    values = [reference, kept, gradients, *peaks[:3], *later, flops[0], flops[1]]
    return Update(*map(float, values))


def _watch_backward(model: Model, tracker: Tracker) -> tuple[list[int], list[int]]:
    """Return two lists, to which each backward pass adds how long the history is when it leaves the last block, and
    when it enters the first one."""
    after_last: list[int] = []
    before_first: list[int] = []

    def watch(block: nn.Module, places: list[int]) -> None:
        def note(_: Tensor) -> None:
            places.append(len(tracker.history))

        def seen(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].requires_grad and torch.is_grad_enabled():
                args[0].register_hook(note)  # type: ignore[no-untyped-call]

        block.register_forward_pre_hook(seen)

    blocks = model.blocks()
    watch(blocks[-1], after_last)
    if len(blocks) > 1:
        watch(blocks[1], before_first)
    return after_last, before_first


def stand_in(module: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Put tensors of the mode in the places of a module's on the meta device: of a device, and without memory."""
    made: dict[int, Tensor] = {}
    for each in module.modules():
        for tensors in (each._parameters, each._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = mode.fake_tensor_converter.from_meta_and_device(mode, tensor.detach(), device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def a_batch(rows: int, length: int, device: torch.device) -> Batch:
    """Return a batch as rows of several documents are: with a mask of its own for each row."""
    ids_BT = torch.zeros(rows, length, dtype=torch.long, device=device)
    return Batch(ids_BT, ids_BT.clone(), ids_BT.to(torch.int32), ids_BT.clone(), rows * length)


def captured_block(
    model: Model, device: torch.device, precision: str, rows: int, length: int
) -> tuple[nn.Module, Captured]:
    """Return the first block of a model on the meta device, and what it is called with, which has shapes alone."""
    block = model.blocks()[0]
    alone = copy.deepcopy(block)
    found: list[Captured] = []

    class ReachedError(Exception):
        """The block was called."""

    def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise ReachedError

    mode = FakeTensorMode()
    stand_in(cast(nn.Module, model), mode, device)
    handle = block.register_forward_pre_hook(capture, with_kwargs=True)
    batch = None
    try:
        with mode, autocast(precision, device):
            batch = a_batch(rows, length, device)
            model.hidden(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
    except ReachedError:
        pass
    finally:
        handle.remove()
    return alone, found[0]


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer, each once."""
    yield from module.parameters()
    yield from module.buffers()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _alike(model: Model) -> bool:
    """Return whether the blocks of a model are a list that can be cut, and take the same each."""
    shapes = [[(n, t.shape, t.dtype, t.requires_grad) for n, t in _named(block)] for block in model.blocks()]
    return _list_of(model) is not None and all(each == shapes[0] for each in shapes)


def _named(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from block.named_parameters()
    yield from block.named_buffers()


def _list_of(model: Model) -> nn.ModuleList | None:
    blocks = list(model.blocks())
    lists = (each for each in cast(nn.Module, model).modules() if isinstance(each, nn.ModuleList))
    return next((each for each in lists if list(map(id, each)) == list(map(id, blocks))), None)


def _shorten(model: Model, blocks: int) -> None:
    found = _list_of(model)
    assert found is not None
    del found[blocks:]
