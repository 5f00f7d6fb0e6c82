"""What a run would take, without running it: the model on the meta device, counts from the corpus."""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
import torch
from attrs import frozen

from llmx.assembly import choose_sizes, sequence_length
from llmx.corpora import make_reading
from llmx.data.documents import texts_of
from llmx.data.encode import Encoder
from llmx.data.split import Split
from llmx.errors import DataError, PluginError
from llmx.protocols import Dataset, Document
from llmx.recipe import Recipe
from llmx.train.adapt import adapt
from llmx.train.device import DTYPES, choose_device, choose_precision

SAMPLE_CHARS = 1_000_000
"""Text encoded to measure characters per token; the rest of the corpus is only counted."""


@frozen
class Plan:
    """Numbers of a run that was not started.

    Attributes:
        training_tokens: tokens of the training text, from the sample's characters per token.
        weight_bytes: parameters, their gradients and the optimizer's state, in fp32.
        activation_bytes: what one micro-batch keeps for its backward pass, an estimate from the blocks' shapes.
    """

    model: str
    parameters: int
    vocab_size: int
    training_tokens: int
    steps: int
    tokens_per_update: int
    epochs: float
    total_tokens: int
    flops: float
    weight_bytes: int
    activation_bytes: int
    precision: str
    device: str

    def text(self, *, as_json: bool) -> str:
        """Return the plan for a person, or as JSON."""
        if as_json:
            return json.dumps(attrs.asdict(self))
        gib = 2**30
        rows = [
            ("model", f"{self.model}, {self.parameters:,} parameters, vocabulary {self.vocab_size:,}"),
            ("data", f"about {self.training_tokens:,} training tokens"),
            ("run", f"{self.steps:,} steps of {self.tokens_per_update:,} tokens = {self.total_tokens:,} tokens"),
            ("", f"{self.epochs:.2f} epochs, {self.flops:.2e} floating-point operations"),
            ("memory", f"about {(self.weight_bytes + self.activation_bytes) / gib:.2f} GiB:"),
            ("", f"{self.weight_bytes / gib:.2f} GiB weights, gradients and optimizer,"),
            ("", f"{self.activation_bytes / gib:.2f} GiB activations of a micro-batch"),
            ("device", f"{self.device}, {self.precision}"),
        ]
        return "\n".join(f"{name:8}{value}" for name, value in rows) + "\nNothing was trained or written."


def make_plan(recipe: Recipe) -> Plan:
    """Return the plan of a recipe; reads the corpus, makes the tokenizer in memory, writes nothing.

    Raises:
        RecipeError, PluginError: whatever a run would raise before its first step.
    """
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    made = make_reading(recipe)
    tokenizer = made.tokenizer
    training_tokens = sum(_count_tokens(each, made.split, made.encoder) for each in made.datasets.values())
    with torch.device("meta"):
        model, _ = adapt(recipe, recipe.model.build(vocab_size=tokenizer.vocab_size))
        optimizer = recipe.optimizer.build(model)
    length = sequence_length(recipe, model)
    if training_tokens < length + 1:
        raise DataError(f"data: the training text has about {training_tokens} tokens, fewer than one row of {length}")
    rows_per_epoch = max(1, (training_tokens - length) // length)
    sizes = choose_sizes(recipe, length, rows_per_epoch, ranks=1)
    recipe.scheduler.build(sizes.steps)
    total = sizes.steps * sizes.rows * length
    trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    parameters = sum(p.numel() for p in cast(torch.nn.Module, model).parameters())
    return Plan(
        model=recipe.model.name,
        parameters=parameters,
        vocab_size=tokenizer.vocab_size,
        training_tokens=training_tokens,
        steps=sizes.steps,
        tokens_per_update=sizes.rows * length,
        epochs=sizes.steps * sizes.rows / rows_per_epoch,
        total_tokens=total,
        flops=float(model.flops_per_token(length)) * total,
        weight_bytes=4 * (parameters + trained) + _optimizer_bytes(optimizer),
        activation_bytes=_activation_bytes(recipe, model, sizes.micro_batch, length, DTYPES[precision]),
        precision=precision,
        device=str(device),
    )


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


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of the optimizer's state, by taking a step on the meta device.

    Raises:
        PluginError: the optimizer cannot step there.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
        group.update(fused=False, foreach=False) if "fused" in group else None
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError) as error:
        name = type(optimizer).__name__
        raise PluginError(
            f"{name}: takes no step on the meta device, so its state cannot be measured: {error}"
        ) from error
    states = [value for state in optimizer.state.values() for value in state.values()]
    return sum(v.numel() * v.element_size() for v in states if isinstance(v, torch.Tensor))


def _activation_bytes(recipe: Recipe, model: Any, rows: int, length: int, dtype: torch.dtype) -> int:
    """Return the bytes that autograd saves in one forward of a micro-batch, counted on the meta device."""
    from llmx.protocols import Batch

    saved: dict[int, int] = {}
    weights = {id(p) for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    kept: list[Any] = []
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    batch = Batch(ids, ids, None, None, rows * length)
    objective = recipe.objective.build()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32),
    ):
        objective(model, batch)
    return sum(saved.values())
