"""The plan of a run: the model by its shapes, counts from the corpus, and one block timed on the device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import attrs
import torch
from attrs import frozen

from llmx.assembly import auto_tokens_per_update, choose_sizes, sequence_length, with_tokens_per_update
from llmx.corpora import make_reading
from llmx.data.documents import texts_of
from llmx.data.encode import Encoder
from llmx.data.split import Split
from llmx.errors import DataError, RecipeError
from llmx.nn import count_weights
from llmx.plan.disk import Disk, plan_disk
from llmx.plan.fit import Advice, advise
from llmx.plan.memory import PROCESS_BYTES, Memory, Setting, plan_memory, process_bytes
from llmx.plan.pace import Pace, measure_pace
from llmx.plan.text import advice_text, size_text, text_of
from llmx.plan.update import tensors_of
from llmx.protocols import Dataset, Document
from llmx.recipe import Recipe
from llmx.sections import size_bytes
from llmx.train.device import choose_device, choose_precision
from llmx.train.model import meta_model
from llmx.train.rates import group_schedules

if TYPE_CHECKING:
    from llmx.assembly import Run

SAMPLE_CHARS = 1_000_000
"""Text encoded to measure characters per token; the rest of the corpus is only counted."""


@frozen
class Plan:
    """Numbers of a run that was not started.

    Attributes:
        trained_parameters: those that the optimizer moves.
        training_tokens: tokens of the training text, from the sample's characters per token.
        tokens_per_update_working: how the law came to them where the recipe says "auto".
        learning_rates: the peak of each parameter group by its name, with the law's working where it was "auto".
        flops: floating-point operations of the whole run by the model's own count, as a share of the peak is told.
        counted_flops: of the operations that it will really do: none for what is frozen, those computed again twice.
        seconds: of the updates, at the measured pace, without evaluations, reading and writing.
        weight_bytes: weights, gradients and the optimizer's state.
        activation_bytes: what an update holds beside them when it holds most.
        limit_bytes: of `plan.memory_limit`; None where there is none.
        advice: what to change; None where the run fits.
    """

    model: str
    parameters: int
    trained_parameters: int
    vocab_size: int
    training_tokens: int
    steps: int
    sequence_length: int
    micro_batch: int
    tokens_per_update: int
    tokens_per_update_working: str
    learning_rates: dict[str, tuple[float, str]]
    epochs: float
    total_tokens: int
    flops: float
    counted_flops: float
    seconds: float
    pace: Pace
    weight_bytes: int
    activation_bytes: int
    memory: Memory
    memory_bytes: int
    disk: Disk
    disk_bytes: int
    limit_bytes: int | None
    advice: Advice | None
    precision: str
    device: str

    def text(self, *, as_json: bool) -> str:
        """Return the plan for a person, or as JSON."""
        return json.dumps(attrs.asdict(self)) if as_json else text_of(self)


def make_plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe; reads the corpus, makes the tokenizer in memory, writes nothing.

    Raises:
        RecipeError, PluginError: whatever a run would raise before its first step.
    """
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    made = make_reading(recipe)
    training_tokens = sum(_count_tokens(each, made.split, made.encoder) for each in made.datasets.values())
    vocab_size = made.tokenizer.vocab_size
    process, most = process_bytes()
    model, adapters = meta_model(recipe, vocab_size, precision)
    length = sequence_length(recipe, model)
    if training_tokens < length + 1:
        raise DataError(f"data: the training text has about {training_tokens} tokens, fewer than one row of {length}")
    rows_per_epoch = max(1, (training_tokens - length) // length)
    parameters = count_weights(cast(torch.nn.Module, model))
    working = ""
    if recipe.train.tokens_per_update == "auto":
        _, working = auto_tokens_per_update(length, rows_per_epoch, parameters)
        recipe = with_tokens_per_update(recipe, length, rows_per_epoch, parameters)
    sizes = choose_sizes(recipe, length, rows_per_epoch, ranks=1)
    recipe.scheduler.build(sizes.steps)
    with torch.device("meta"):
        optimizer = recipe.optimizer.build(model)
    group_schedules(recipe, optimizer, sizes.steps)
    setting = Setting(vocab_size, device, precision, process + PROCESS_BYTES, most, sizes.rank_rows)
    memory, update = plan_memory(recipe, setting, length)
    limit = None if recipe.plan.memory_limit is None else size_bytes(recipe.plan.memory_limit)
    total, epochs = sizes.steps * sizes.rows * length, sizes.steps * sizes.rows / rows_per_epoch
    counted = update.flops * sizes.steps * sizes.rows / sizes.micro_batch
    pace = measure_pace(recipe, vocab_size, device, precision, sizes.micro_batch, length)
    held_out = recipe.data.held_out
    disk = plan_disk(
        recipe, model, adapters, memory,
        steps=sizes.steps, epochs=epochs, tokens=round(training_tokens / (1 - held_out)),
    )  # fmt: skip
    return Plan(
        model=recipe.model.name,
        parameters=parameters,
        trained_parameters=sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        vocab_size=vocab_size,
        training_tokens=training_tokens,
        steps=sizes.steps,
        sequence_length=length,
        micro_batch=sizes.micro_batch,
        tokens_per_update=sizes.rows * length,
        tokens_per_update_working=working,
        learning_rates=_rates(optimizer),
        epochs=epochs,
        total_tokens=total,
        flops=float(model.flops_per_token(length)) * total,
        counted_flops=counted,
        seconds=counted / pace.flops_per_s,
        pace=pace,
        weight_bytes=sum(memory.weights.values()) + memory.gradients + memory.optimizer,
        activation_bytes=memory.activations,
        memory=memory,
        memory_bytes=memory.peak,
        disk=disk,
        disk_bytes=disk.peak,
        limit_bytes=limit,
        advice=None if limit is None or memory.peak <= limit else advise(recipe, setting, length, limit),
        precision=precision,
        device=str(device),
    )


def require_memory(run: Run) -> None:
    """Check that a run which is put together and has not begun stays below `plan.memory_limit`; reads no data.

    Raises:
        RecipeError: it does not; the message says what to change first.
    """
    if run.recipe.plan.memory_limit is None:
        return
    limit = size_bytes(run.recipe.plan.memory_limit)
    process, most = process_bytes()
    if run.device.type == "cpu":  # the model is there by now
        process -= sum(each.numel() * each.element_size() for each in tensors_of(run.module))
    setting = Setting(
        run.tokenizer.vocab_size, run.device, run.precision, process + PROCESS_BYTES, most, run.sizes.rank_rows
    )
    memory, _ = plan_memory(run.recipe, setting, run.sizes.sequence_length)
    if memory.peak > limit:
        advice = advise(run.recipe, setting, run.sizes.sequence_length, limit)
        raise RecipeError(
            f"plan.memory_limit = {run.recipe.plan.memory_limit}: the run would take about {size_text(memory.peak)}; "
            f"{advice_text(advice)}"
        )


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, str]]:
    groups = enumerate(optimizer.param_groups)
    return {str(g.get("name", number)): (float(g["lr"]), str(g.get("lr_working", ""))) for number, g in groups}


def _count_tokens(dataset: Dataset, split: Split, encoder: Encoder) -> int:
    """Return the training tokens of a source, encoding its first documents and scaling by characters."""
    documents = (document for name, document in split(dataset) if name == "train")
    sample: list[Document] = []
    size = 0
    for document in documents:
        sample.append(document)
        size += sum(map(len, texts_of(document)))
        if size >= SAMPLE_CHARS:
            break
    encoded = sum(len(each.ids) for each in encoder(sample))
    rest = sum(len(text) for document in documents for text in texts_of(document))
    return round(encoded * (size + rest) / size) if size else 0
