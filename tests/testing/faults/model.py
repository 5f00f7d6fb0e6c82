"""Mistakes of model plugins, each of which a check of the kit must find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor, nn

from llmx import Component
from llmx.nn import attention_mask
from llmx.testing.reference import ReferenceModel, ReferenceOptions


class Softcapped(ReferenceModel):
    """Bounds its logits after the head, which a fused loss does not know."""

    def forward(self, ids_BT: Tensor, **named: Any) -> Tensor:
        return 30 * torch.tanh(super().forward(ids_BT, **named) / 30)


class LastOnly(ReferenceModel):
    """Returns the last position's logits when it decodes, as some generation code expects."""

    def forward(self, ids_BT: Tensor, **named: Any) -> Tensor:
        return super().forward(ids_BT, **named)[:, -1:]


class SeesOneAhead(ReferenceModel):
    """Mixes each position with the next one: a convolution padded on both sides."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.model.embed_tokens.register_forward_hook(lambda _, __, x: x + 0.1 * F.pad(x, (0, 0, 0, 1))[:, 1:])


class PoolsOverTime(ReferenceModel):
    """Normalises by a mean over all positions."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        x_BTD = super().hidden(ids_BT, **named)
        return x_BTD - 0.01 * x_BTD.mean(1, keepdim=True)


class LeaksInTraining(ReferenceModel):
    """Its kernel for training, taken when gradients are wanted, has its mask shifted by one."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.register_forward_pre_hook(self._shift)

    @staticmethod
    def _shift(_: Any, arguments: Any) -> Any:
        x_BTD, tables, mask_BTS, cache, index = arguments
        tokens = x_BTD.shape[1]
        if cache is None and mask_BTS is None and torch.is_grad_enabled() and tokens > 1:
            mask_BTS = torch.ones(1, tokens, tokens, dtype=torch.bool, device=x_BTD.device).tril(1)
        return x_BTD, tables, mask_BTS, cache, index


class Forgets(ReferenceModel):
    """Counts positions from 0 again for what comes out of the cache."""

    def hidden(self, ids_BT: Tensor, *, cache: Any = None, positions_BT: Any = None, **named: Any) -> Tensor:
        if cache is not None:
            positions_BT = torch.arange(ids_BT.shape[1])[None]
        return super().hidden(ids_BT, cache=cache, positions_BT=positions_BT, **named)


class FirstChunkOnly(ReferenceModel):
    """Lets every token of a later chunk see the whole chunk: its mask is right for a prefill and for one token."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.register_forward_pre_hook(self._open)

    @staticmethod
    def _open(_: Any, arguments: Any) -> Any:
        x_BTD, tables, mask_BTS, cache, index = arguments
        if cache is not None and cache.length and x_BTD.shape[1] > 1:
            mask_BTS = torch.ones_like(mask_BTS)
        return x_BTD, tables, mask_BTS, cache, index


class BatchStatistics(ReferenceModel):
    """Scales by a mean over the batch."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        x_BTD = super().hidden(ids_BT, **named)
        return x_BTD * (1 + 0.01 * x_BTD.std())


class IgnoresDocuments(ReferenceModel):
    """Takes the argument and does nothing with it."""

    def hidden(self, ids_BT: Tensor, *, documents_BT: Any = None, **named: Any) -> Tensor:
        return super().hidden(ids_BT, **named)


class MasksNeighbours(ReferenceModel):
    """Compares documents by less-or-equal: a document sees those before it."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.documents_BT: Any = None
        for block in self.blocks():
            block.register_forward_pre_hook(self._widen)

    def hidden(self, ids_BT: Tensor, *, documents_BT: Any = None, **named: Any) -> Tensor:
        self.documents_BT = documents_BT
        return super().hidden(ids_BT, documents_BT=documents_BT, **named)

    def _widen(self, _: Any, arguments: Any) -> Any:
        x_BTD, tables, mask_BTS, cache, index = arguments
        if self.documents_BT is not None:
            causal = attention_mask(None, x_BTD.shape[1], 1, x_BTD.device)[:, :, 1:]  # type: ignore[index]
            mask_BTS = causal & (self.documents_BT[:, :, None] >= self.documents_BT[:, None, :])
        return x_BTD, tables, mask_BTS, cache, index


class AbsolutePositions(ReferenceModel):
    """Adds positions that do not restart with a document."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.model.embed_tokens.register_forward_hook(self._add)

    @staticmethod
    def _add(_: Any, __: Any, x_BTD: Tensor) -> Tensor:
        return x_BTD + torch.linspace(0, 1, 64, device=x_BTD.device)[: x_BTD.shape[1], None]


class HiddenDropout(ReferenceModel):
    """Drops activations in training by a number that is no option."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        return F.dropout(super().hidden(ids_BT, **named), 0.01, self.training)


class IndexAdds(ReferenceModel):
    """Adds bf16 results into an fp32 buffer by index, which wants one type: it fails under autocast alone."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        x_BTD = super().hidden(ids_BT, **named)
        out_BTD = torch.zeros_like(x_BTD)
        out_BTD.index_add_(1, torch.arange(x_BTD.shape[1]), F.linear(x_BTD, torch.eye(x_BTD.shape[2])))
        return out_BTD


class RunningSum(ReferenceModel):
    """Subtracts large numbers from each other, which bf16 does not hold apart."""

    def forward(self, ids_BT: Tensor, **named: Any) -> Tensor:
        logits_BTV = super().forward(ids_BT, **named)
        return (logits_BTV + 128) - 128


class CountsCalls(ReferenceModel):
    """Grows a scale with each call of a block, as a warm-up of its depth; a call that is made again counts too."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.mlp.forward = _Warming(block.mlp.forward)  # type: ignore[method-assign]


class _Warming:
    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def __call__(self, x_BTD: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.inner(x_BTD * (1 - 0.01**self.calls))
        return result


class BlindAttention(ReferenceModel):
    """Multiplies what attention returns by a gate that starts at 0 and is no parameter: it stays 0."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.self_attn.register_forward_hook(lambda _, __, y: 0 * y)


class DeadHead(ReferenceModel):
    """Computes its hidden states under no_grad: only the head learns."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        with torch.no_grad():
            return super().hidden(ids_BT, **named)


class TiedTwice(ReferenceModel):
    """Ties the head by sharing the parameter under two names: safetensors saves no shared memory."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.lm_head.weight = self.model.embed_tokens.weight


class HiddenScale(ReferenceModel):
    """Draws a scale for each feature and keeps it in a buffer that no state dict holds."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.register_buffer("scale", 1 + 0.1 * torch.rand(options.width), persistent=False)

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        return super().hidden(ids_BT, **named) * self.scale


class ForgetsTied(ReferenceModel):
    """Leaves an option out of its config, so that its default comes back."""

    def to_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_config().items() if key != "tied"}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReferenceModel:
        return super().from_config({"tied": False, **config})


@frozen
class ThetaOptions(ReferenceOptions):
    theta: float = 500.0
    """Base of the rotary angles."""


class ForgetsTheta(ReferenceModel):
    """Leaves an option out of its config that no shape shows."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.theta = getattr(options, "theta", 10000.0)


class Table(ReferenceModel):
    """Keeps positions in a buffer that stays on the meta device when weights are loaded."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.register_buffer("table", torch.arange(float(options.context_length)), persistent=False)


class TensorInConfig(ReferenceModel):
    """Puts a path of its own into the config, which JSON cannot hold."""

    def to_config(self) -> dict[str, Any]:
        return super().to_config() | {"torch_dtype": torch.float32}


class NoRoleForBiases(ReferenceModel):
    """Gives roles to weights only."""

    def roles(self) -> dict[str, Any]:
        return {name: role for name, role in super().roles().items() if role != "bias"}


class RoleByName(ReferenceModel):
    """Calls everything a norm whose module's name holds the word, the MLP after it too."""

    def roles(self) -> dict[str, Any]:
        return {n: "norm" if n.endswith("down_proj.weight") else r for n, r in super().roles().items()}


class HeadIsHidden(ReferenceModel):
    """Calls the head a hidden matrix."""

    def roles(self) -> dict[str, Any]:
        return {name: "hidden" if role == "head" else role for name, role in super().roles().items()}


class MatrixNorm(ReferenceModel):
    """Calls every parameter of a block hidden, its norms too."""

    def roles(self) -> dict[str, Any]:
        return {name: "hidden" if "layers" in name else role for name, role in super().roles().items()}


class ForwardOnly(ReferenceModel):
    """Counts the forward alone."""

    def flops_per_token(self, sequence_length: int) -> int:
        return super().flops_per_token(sequence_length) // 3


class CountsTheEmbedding(ReferenceModel):
    """Counts 6 operations for every parameter, the embedding's too."""

    def flops_per_token(self, sequence_length: int) -> int:
        return super().flops_per_token(sequence_length) + 6 * self.model.embed_tokens.weight.numel()


class NoHead(ReferenceModel):
    """Leaves the head out."""

    def flops_per_token(self, sequence_length: int) -> int:
        return super().flops_per_token(sequence_length) - 6 * self.head_weight().numel()


class SquareAttention(ReferenceModel):
    """Counts all scores of a sequence for each of its tokens."""

    def flops_per_token(self, sequence_length: int) -> int:
        return super().flops_per_token(sequence_length) + 6 * 64 * sequence_length**2


class LooksAtWeights(ReferenceModel):
    """Scales its start by a number that it takes out of a tensor."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.scale = 1 / self.model.embed_tokens.weight.std().item()


class TableOnTheCpu(ReferenceModel):
    """Makes a table with the device written out."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.register_buffer("table", torch.arange(options.context_length, device="cpu"), persistent=False)


class SetsTheSeed(ReferenceModel):
    """Sets the global seed in its constructor."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        torch.manual_seed(1234)
        super().__init__(options, vocab_size=vocab_size)


class OwnGenerator(ReferenceModel):
    """Draws one of its matrices from a generator that is seeded with a count of the models so far."""

    made = 0

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        type(self).made += 1
        generator = torch.Generator().manual_seed(self.made)
        if self.lm_head.weight.device.type != "meta":
            nn.init.normal_(self.lm_head.weight, generator=generator)


class BlocksReversed(ReferenceModel):
    """Returns its blocks in another order than it calls them, and passes over their hooks."""

    def blocks(self) -> Any:
        return list(self.model.layers)[::-1]

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        whole = self.blocks
        self.blocks = lambda: self.model.layers  # type: ignore[method-assign]
        try:
            return super().hidden(ids_BT, **named)
        finally:
            self.blocks = whole  # type: ignore[method-assign]


class CallsForward(ReferenceModel):
    """Calls `forward` of its blocks and not the blocks: hooks, sharding and compiling pass by."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        modules = self.blocks
        self.blocks = lambda: [_Bare(block) for block in modules()]  # type: ignore[method-assign, assignment]
        try:
            return super().hidden(ids_BT, **named)
        finally:
            self.blocks = modules  # type: ignore[method-assign]


class _Bare:
    def __init__(self, block: Any) -> None:
        self.self_attn, self.block = block.self_attn, block

    def __call__(self, *arguments: Any) -> Any:
        return self.block.forward(*arguments)


class ShortTable(ReferenceModel):
    """Learns a vector for every position but the last: the table was made for the inputs of a shifted row."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.wpe = nn.Embedding(options.context_length - 1, options.width)

    def hidden(self, ids_BT: Tensor, *, cache: Any = None, positions_BT: Any = None, **named: Any) -> Tensor:
        past = 0 if cache is None else cache.length
        if positions_BT is None:
            positions_BT = torch.arange(past, past + ids_BT.shape[1], device=ids_BT.device)[None]
        x_BTD = super().hidden(ids_BT, cache=cache, positions_BT=positions_BT, **named)
        return x_BTD + self.wpe(positions_BT)


class FixedContext(ReferenceModel):
    """Takes the context of its family, whatever the option says."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(evolve(options, context_length=32), vocab_size=vocab_size)


def _fault(check: str, cls: type, *values: Any, options: type = ReferenceOptions) -> tuple[Any, ...]:
    name = cls.__name__.lower()
    return check, Component(name=name, target=f"llmx_faults_model:{cls.__name__}", options=options), *values


FAULTS = [
    _fault("head", Softcapped),
    _fault("head", LastOnly),
    _fault("causality", SeesOneAhead),
    _fault("causality", PoolsOverTime),
    _fault("causality", LeaksInTraining),
    _fault("cached-decoding", Forgets),
    _fault("cached-decoding", FirstChunkOnly),
    _fault("rows-apart", BatchStatistics),
    _fault("documents-apart", IgnoresDocuments),
    _fault("documents-apart", MasksNeighbours),
    _fault("documents-apart", AbsolutePositions),
    _fault("training-flag", HiddenDropout),
    _fault("bf16", IndexAdds),
    _fault("bf16", RunningSum),
    _fault("checkpointed-blocks", CountsCalls),
    _fault("overfit", BlindAttention),
    _fault("overfit", DeadHead),
    _fault("state-dict", TiedTwice),
    _fault("state-dict", HiddenScale),
    _fault("config-round-trip", ForgetsTied, {"tied": True}),
    _fault("config-round-trip", ForgetsTheta, options=ThetaOptions),
    _fault("config-round-trip", Table),
    _fault("config-round-trip", TensorInConfig),
    _fault("roles", NoRoleForBiases),
    _fault("roles", RoleByName),
    _fault("roles", HeadIsHidden),
    _fault("roles", MatrixNorm),
    _fault("flops", ForwardOnly),
    _fault("flops", CountsTheEmbedding),
    _fault("flops", NoHead),
    _fault("flops", SquareAttention),
    _fault("meta-device", LooksAtWeights),
    _fault("meta-device", TableOnTheCpu),
    _fault("seeded", SetsTheSeed),
    _fault("seeded", OwnGenerator),
    _fault("blocks-in-order", BlocksReversed),
    _fault("blocks-in-order", CallsForward),
    _fault("context-length", ShortTable),
    _fault("context-length", FixedContext),
]

CRASHES = {
    "indexadds": "RuntimeError",
    "tiedtwice": "RuntimeError",
    "tensorinconfig": "TypeError",
    "looksatweights": "RuntimeError",
    "shorttable": "IndexError",
}
"""Faults that show as an exception of their own, and which."""


# --- unusual, and right ---------------------------------------------------------------------------------------------


class ZeroStart(ReferenceModel):
    """Starts with zeros in every matrix that writes into the residual stream, and in the head."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                nn.init.zeros_(parameter)


class LearnedPositions(ReferenceModel):
    """Adds a learnt vector for each position, which counts from the document's beginning or the cache's end."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        self.position_embed = nn.Embedding(options.context_length, options.width)

    def hidden(self, ids_BT: Tensor, *, cache: Any = None, positions_BT: Any = None, **named: Any) -> Tensor:
        past = 0 if cache is None else cache.length
        if positions_BT is None:
            positions_BT = torch.arange(past, past + ids_BT.shape[1], device=ids_BT.device)[None]
        added_BTD = self.position_embed(positions_BT)
        handle = self.model.embed_tokens.register_forward_hook(lambda _, __, x_BTD: x_BTD + added_BTD)
        try:
            return super().hidden(ids_BT, cache=cache, positions_BT=positions_BT, **named)
        finally:
            handle.remove()


@frozen
class DropoutOptions(ReferenceOptions):
    dropout: float = 0.1
    """Part of the activations that is dropped in training."""


class Dropout(ReferenceModel):
    """Drops activations of its MLPs, as an option asks."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.mlp.register_forward_hook(lambda m, _, y: F.dropout(y, options.dropout, m.training))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReferenceModel:
        values = {key: value for key, value in config.items() if key not in ("model_type", "vocab_size")}
        return cls(DropoutOptions(**values), vocab_size=config["vocab_size"])


class Experts(nn.Module):
    """Each token goes through the one of four experts that its router likes best."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, width, inner) * width**-0.5)
        self.up_bias = nn.Parameter(torch.zeros(4, inner))
        self.down = nn.Parameter(torch.randn(4, inner, width) * inner**-0.5)

    def forward(self, x_BTD: Tensor) -> Tensor:
        weight, expert = self.router(x_BTD).softmax(-1).max(-1)
        inner = (x_BTD[..., None, :] @ self.up[expert]).squeeze(-2) + self.up_bias[expert]
        out: Tensor = (F.silu(inner)[..., None, :] @ self.down[expert]).squeeze(-2) * weight[..., None]
        return out


class Mixture(ReferenceModel):
    """Has experts in place of its MLPs; three quarters of their weights rest for each token."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.mlp = Experts(options.width, 2 * options.width)

    def roles(self) -> dict[str, Any]:
        return {n: "bias" if n.endswith("up_bias") else role for n, role in super().roles().items()}

    def flops_per_token(self, sequence_length: int) -> int:
        resting = sum(p.numel() for n, p in self.named_parameters() if n.endswith(("up_bias", ".up", ".down")))
        active = sum(p.numel() // 4 for n, p in self.named_parameters() if n.endswith((".up", ".down")))
        return super().flops_per_token(sequence_length) + 6 * (active - resting)


class Window(ReferenceModel):
    """Sees the last twelve tokens only."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=vocab_size)
        for block in self.blocks():
            block.register_forward_pre_hook(self._narrow)

    @staticmethod
    def _narrow(_: Any, arguments: Any) -> Any:
        x_BTD, tables, mask_BTS, cache, index = arguments
        tokens, past = x_BTD.shape[1], 0 if cache is None else cache.length
        near = torch.ones(tokens, past + tokens, dtype=torch.bool, device=x_BTD.device)
        near = (near.tril(past) & near.triu(past - 11))[None]
        return x_BTD, tables, near if mask_BTS is None else near & mask_BTS, cache, index


class PaddedVocabulary(ReferenceModel):
    """Rounds its vocabulary up to a multiple of 64."""

    def __init__(self, options: Any, *, vocab_size: int) -> None:
        super().__init__(options, vocab_size=-(-vocab_size // 64) * 64)


class LargeLogits(ReferenceModel):
    """Has logits in the hundreds, whose fp32 rounding is larger than that of small ones."""

    def hidden(self, ids_BT: Tensor, **named: Any) -> Tensor:
        return 100 * super().hidden(ids_BT, **named)


CORRECT: list[Any] = [
    _fault("*", ReferenceModel),
    _fault("*", ReferenceModel, {"tied": True, "layers": 5}),
    _fault("*", ReferenceModel, {"context_length": 8, "layers": 1}),
    _fault("*", ZeroStart),
    _fault("*", LearnedPositions),
    _fault("*", Dropout, options=DropoutOptions),
    _fault("*", Mixture),
    _fault("*", Window),
    _fault("*", PaddedVocabulary),
    *(_fault(check, LargeLogits) for check in ("cached-decoding", "rows-apart", "documents-apart", "context-length")),
]
