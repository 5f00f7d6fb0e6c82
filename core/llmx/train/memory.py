"""What saves an accelerator's memory: activations computed again, and an embedding that stays on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from llmx.errors import RecipeError
from llmx.protocols import Model

Checkpointing: TypeAlias = Literal["none", "block", "selective"]

aten = torch.ops.aten
KEPT = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_fused_attention_overrideable.default,
    }
)
"""What "selective" keeps: nearly all of a block's operations are in these, and little of its memory."""


class Recomputed:
    """A block's forward that keeps only its inputs, and runs again in the backward pass.

    Takes the place of `forward` on the block itself, which stays a module of the same names; copied with it, it calls
    the copy's.
    """

    def __init__(self, forward: Callable[..., Any], *, selective: bool) -> None:
        self.forward = forward
        self.selective = selective

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # evaluation, and decoding from a cache
            return self.forward(*args, **kwargs)
        how: dict[str, Any] = (
            {"context_fn": _selective_contexts} if self.selective else {}
        )  # named only then, for torch.compile
        return checkpoint(self.forward, *args, use_reentrant=False, **how, **kwargs)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def recompute_blocks(model: Model, mode: Checkpointing) -> None:
    """Let each block of a model keep less for its backward pass, in place."""
    for block in model.blocks():
        if mode != "none":
            block.__dict__["forward"] = Recomputed(block.forward, selective=mode == "selective")


class HostRows:
    """An embedding's forward that looks rows up where they lie, on the host, and sends only those to where the ids are.

    Copied with its embedding, and moved with it, it is that of the copy.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def __call__(self, ids_BT: Tensor) -> Tensor:
        embedding = cast(nn.Embedding, self.forward.__self__)  # type: ignore[attr-defined]  # it is bound
        return self.forward(ids_BT.to(embedding.weight.device)).to(ids_BT.device, non_blocking=True)


def place(model: Model, device: torch.device, *, host_embedding: bool) -> None:
    """Move a model to a device in place, its embedding not where that stays on the host.

    Raises:
        RecipeError: the head is the embedding, so that it is needed on the device.
    """
    module = cast(nn.Module, model)
    if not host_embedding or device.type in ("cpu", "meta"):
        module.to(device)
        return
    embeddings = [each for each in module.modules() if isinstance(each, nn.Embedding) and "forward" not in vars(each)]
    if any(model.head_weight() is each.weight for each in embeddings):
        raise RecipeError(
            "train.host_embedding: the model's head is its embedding, which the device needs: leave it out"
        )
    for each in module.modules():
        if each in embeddings:
            each.__dict__["forward"] = HostRows(each.forward)
            continue
        for parameter in each.parameters(recurse=False):
            parameter.data = parameter.data.to(device)
        for name, buffer in each.named_buffers(recurse=False):
            each._buffers[name] = buffer.to(device)
