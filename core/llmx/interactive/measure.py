"""What a program asks of a run: its loss on some data, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from llmx.corpora import encoder_of
from llmx.data.prepare import prepare
from llmx.data.rows import HeldOut
from llmx.data.split import Split
from llmx.data.store import TokenStore, read_manifest
from llmx.given.recipe import dataset_from
from llmx.train.evaluate import evaluate
from llmx.train.objective import count_of

if TYPE_CHECKING:
    from llmx.assembly import Run


MOST = 700.0
"""Loss from which on e to its power is in no float any more."""


class Evaluation(TypedDict):
    """What an evaluation measured.

    Attributes:
        loss: mean over what the objective counts; nats per token where it is a cross-entropy.
        perplexity: e to the power of the loss; None where the objective counts something else than tokens.
        bits_per_byte: the loss in bits per byte of text; None in the same case.
        tokens: how much counted.
        data: "given", "held-out" or "training".
    """

    loss: float
    perplexity: float | None
    bits_per_byte: float | None
    tokens: int
    data: str


class Stats(TypedDict):
    """Where a run stands.

    Attributes:
        step: updates done.
        epoch: passes over the training data.
        tokens: tokens read.
        loss: of the last update, nats per token; None before the first.
        best_loss: lowest held-out loss so far; None before the first evaluation.
        best_step: the step it was measured at.
        tokens_per_s: of the last update; None before the first.
        device: where the products are made.
        precision: in which type.
        vocabulary: ids of the tokenizer.
        parameters: numbers in the weights.
        trained_parameters: those of them that are trained.
        context_length: most tokens the model sees.
        sequence_length: tokens of a training row.
        tokens_per_update: tokens of an update.
        folder: of the run.
    """

    step: int
    epoch: float
    tokens: int
    loss: float | None
    best_loss: float | None
    best_step: int | None
    tokens_per_s: float | None
    device: str
    precision: str
    vocabulary: int
    parameters: int
    trained_parameters: int
    context_length: int
    sequence_length: int
    tokens_per_update: int
    folder: str


def stats_of(run: Run, metrics: Mapping[str, float]) -> Stats:
    """Return where a run stands; `metrics` are those of its last step."""
    state, sizes = run.state, run.sizes
    return Stats(
        step=state.step,
        epoch=run.train_rows.epoch(state.step * sizes.rows),
        tokens=state.tokens,
        loss=metrics.get("train/loss"),
        best_loss=state.best_loss,
        best_step=state.best_step,
        tokens_per_s=metrics.get("tokens_per_s"),
        device=str(run.device),
        precision=run.precision,
        vocabulary=run.tokenizer.vocab_size,
        parameters=sum(each.numel() for each in run.module.parameters()),
        trained_parameters=sum(each.numel() for each in run.parameters()),
        context_length=run.model.context_length,
        sequence_length=sizes.sequence_length,
        tokens_per_update=sizes.rows * sizes.sequence_length,
        folder=str(run.folder),
    )


def evaluation_of(run: Run, data: Any = None) -> Evaluation:
    """Measure a run's model on data: None is its held-out part, or where none is held out what it is trained on.

    Changes nothing of the run, and tells no listener.

    Raises:
        DataError: the data cannot be read, or holds no label that counts.
    """
    recipe = run.recipe
    if data is not None:
        name, rows = "given", _held_out(run, [_encoded(run, data)])
    elif run.held_out is not None:
        name, rows = "held-out", run.held_out
    else:
        name, rows = "training", _held_out(run, [TokenStore(each, "train") for each in run.tokens_folders])
    if data is not None:  # what is given is read whole
        recipe = attrs.evolve(recipe, eval=attrs.evolve(recipe.eval, tokens=0))
    training = run.module.training
    try:
        measured = evaluate(attrs.evolve(run, held_out=rows, recipe=recipe))
    finally:
        run.module.train(training)
    batches = rows.batches(run.sizes.micro_batch, recipe.eval.tokens or None)
    return Evaluation(
        loss=measured.loss,
        perplexity=None if measured.bits_per_byte is None else math.exp(min(measured.loss, MOST)),
        bits_per_byte=measured.bits_per_byte,
        tokens=sum(count_of(run.objective, batch) for batch in batches),
        data=name,
    )


def _held_out(run: Run, stores: list[TokenStore]) -> HeldOut:
    return HeldOut(stores, run.recipe.data.packing, run.sizes.sequence_length)


def _encoded(run: Run, data: Any) -> TokenStore:
    """Return the tokens of data as the run's own are made."""
    dataset = dataset_from(data, run.registry)
    encoder = encoder_of(run.recipe, run.tokenizer, run.template)
    tokenizer = read_manifest(run.tokens_folders[0])["tokenizer"]
    return TokenStore(prepare(dataset, Split(0.0), encoder, tokenizer), "train")
