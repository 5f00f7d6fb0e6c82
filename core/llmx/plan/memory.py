"""Memory that a run takes, by part."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import cast

import torch
from attrs import frozen
from torch import nn

from llmx.errors import PluginError
from llmx.plan.update import Update, plan_update, tensors_of
from llmx.protocols import Adapter, Model
from llmx.recipe import Recipe
from llmx.train.adapt import merges
from llmx.train.device import memory_bytes
from llmx.train.model import meta_model

HEAP_SHARE = {"none": 0.2, "selective": 0.5, "block": 1.0}
HEAP_BYTES = 160 * 2**20
"""What a process on a CPU holds beside the tensors of an update: gaps in a heap that is kept, as a share of them by
what is computed again (which makes and drops tensors among others that stay), and the scratch and the generated code
of kernels. Fitted to runs of TinyLLM and of a Qwen3 of 22 M parameters, plain, with both kinds of checkpointing, small
micro-batches, lora and nf4, two of each: the whole was 6 % too much at worst, and 9 % too little; two runs of one
recipe differ by up to 6 %."""
PROCESS_BYTES = 115 * 2**20
"""What a run imports and loads beside what a plan has by then: loggers, and the kernels of its first product."""


@frozen
class Memory:
    """Bytes that a run holds when it holds most.

    Attributes:
        weights: by "trained" or "frozen" and their type, packed weights and other buffers among the frozen ones.
        gradients: of all that is trained.
        optimizer: its state.
        activations: beside gradients, when an update holds most: kept for the backward pass, or in use.
        reference: copy of the model that the objective compares with.
        process: Python, torch, the corpus as it was read: on a CPU, where all is one memory.
        heap: gaps and scratch beside the tensors, on a CPU.
        preparation: most that this process held so far, on a CPU; what it read and learned is over by then.
        end: most at the end, where adapters are merged into a copy.
        host: of the host's memory where the device has its own: the copy, or a checkpoint on its way to disk.
    """

    weights: dict[str, int]
    gradients: int
    optimizer: int
    activations: int
    reference: int
    process: int
    heap: int
    preparation: int
    end: int
    host: int

    @property
    def peak(self) -> int:
        """Most bytes on the device at once."""
        parts = (self.gradients, self.optimizer, self.activations, self.reference, self.process, self.heap)
        return max(sum(self.weights.values()) + sum(parts), self.preparation, self.end)


@frozen
class Setting:
    """What a run's memory depends on beside its recipe.

    Attributes:
        process: bytes of the process before the model is there.
        preparation: most bytes it held until then.
        rows: rows of an update on one rank.
    """

    vocab_size: int
    device: torch.device
    precision: str
    process: int
    preparation: int
    rows: int


def plan_memory(recipe: Recipe, setting: Setting, length: int) -> tuple[Memory, Update]:
    """Return what a run holds and what an update takes.

    Args:
        length: tokens of a row.
    """
    model, adapters = meta_model(recipe, setting.vocab_size, setting.precision)
    module = cast(nn.Module, model)
    micro_batch = min(recipe.train.micro_batch or setting.rows, setting.rows)
    update = plan_update(
        recipe,
        setting.vocab_size,
        setting.device,
        setting.precision,
        micro_batch,
        length,
        several=micro_batch < setting.rows,
    )
    weights = weights_by_type(recipe, module)
    with torch.device("meta"):
        state = optimizer_bytes(recipe.optimizer.build(model))
    gradients, reference = round(update.gradients), round(update.reference)
    held = sum(weights.values()) + state
    merged = sum(merged_bytes(recipe, model, adapters))
    on_host = setting.device.type == "cpu"
    gaps = round(HEAP_SHARE[recipe.train.checkpointing] * (update.peak - reference))
    heap = gaps + HEAP_BYTES if on_host else 0
    here = setting.process if on_host else 0
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=max(0, update.peak - gradients - reference),
        reference=reference,
        process=here,
        heap=heap,
        preparation=setting.preparation if on_host else 0,
        end=here + held + gradients + reference + merged + HEAP_BYTES if on_host and merged else 0,
        host=0 if on_host else setting.process + max(merged, held),
    )
    return memory, update


def weights_by_type(recipe: Recipe, module: nn.Module) -> dict[str, int]:
    """Return the bytes of parameters and buffers, by whether they are trained and their type as in a run."""
    found: dict[str, int] = {}
    for each in {id(tensor): tensor for tensor in tensors_of(module)}.values():
        size, kind = each.element_size(), str(each.dtype).removeprefix("torch.")
        if each.requires_grad and (recipe.adapters or recipe.train.weights != "bf16"):
            size, kind = 4, "float32"
        key = f"{'trained' if each.requires_grad else 'frozen'} {kind}"
        found[key] = found.get(key, 0) + each.numel() * size
    return found


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
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


def merged_bytes(recipe: Recipe, model: Model, adapters: list[Adapter]) -> tuple[int, int]:
    """Return the bytes of the copy without adapters that the end of a run makes, and three times of its largest layer
    in fp32, which merging one takes besides; 0 and 0 where nothing is merged.

    Args:
        model: as it is trained, on the meta device.
    """
    if not adapters or not merges(recipe, adapters):
        return 0, 0
    plain = copy.deepcopy(model)
    with torch.device("meta"):
        for part, adapter in reversed(list(zip(recipe.adapters, adapters, strict=True))):
            plain = part.blame(adapter.merge, plain)
    sizes = [each.numel() * each.element_size() for each in tensors_of(cast(nn.Module, plain))]
    blocks = [each for block in plain.blocks() for each in block.parameters()]
    return sum(sizes), 3 * 4 * max((each.numel() for each in blocks), default=0)


def process_bytes() -> tuple[int, int]:
    """Return what this process holds now, and the most it has held; the latter twice where only that is known."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        most = memory_bytes(torch.device("cpu"))
        return most, most
    found = {name: int(size) * 1024 for name, size in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text)}
    return found["VmRSS"], found["VmHWM"]
