"""A pre-norm decoder in the Hugging Face layout, from which the model plugins are made.

Shapes: `B` batch, `T` time, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmx.nn.attention import Attention, attention_mask
from llmx.nn.cache import KVCache, KVRows
from llmx.nn.mlp import SwiGLU
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import Yarn, rotary_tables, whole_tables
from llmx.protocols import Role


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, attention: Attention, mlp: SwiGLU, width: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = mlp

    def forward(
        self,
        x_BTD: Tensor,
        tables: tuple[Tensor, Tensor],
        mask_BTS: Tensor | None,
        cache: KVCache | KVRows | None,
        block: int,
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), tables, mask_BTS, cache, block)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD


class Stack(nn.Module):
    """Embedding, blocks and last norm; named `model` in a Hugging Face state dict."""

    def __init__(self, vocab_size: int, width: int, blocks: Sequence[Block], eps: float) -> None:
        super().__init__()
        self.embed_tokens = _embedding(vocab_size, width)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(width, eps)


def _embedding(vocab_size: int, width: int) -> nn.Embedding:
    """Return an embedding; on the meta device without drawing it, for which torch would import a second and 70 MB."""
    if torch.get_default_device().type == "meta":
        empty: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            torch.empty(vocab_size, width), freeze=False
        )
        return empty
    return nn.Embedding(vocab_size, width)


class Decoder(nn.Module):
    """A decoder language model that keeps the contract of `llmx.protocols.Model`.

    Args:
        blocks: the blocks, in order.
        tied: the head is the embedding.
        theta: base of the rotary angles.
        yarn: how it sees beyond the context it was trained with.
        as_published: angles to the last bit as the family was published with (`llmx.nn.rotary_tables`).

    Sizes are kept as numbers and never read off weights: an adapter may put another module in the place of a linear
    one, and a quantised weight has another shape.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        context_length: int,
        blocks: Sequence[Block],
        eps: float,
        theta: float,
        tied: bool,
        yarn: Yarn | None = None,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.width = width
        self.context_length = context_length
        self.theta = theta
        self.yarn = yarn
        self.as_published = as_published
        self.model = Stack(vocab_size, width, blocks, eps)
        self.tied_names = ("lm_head.weight",) if tied else ()
        self.lm_head = None if tied else nn.Linear(width, vocab_size, bias=False)
        self.packed_head: nn.Module | None = None  # llmx.nn.packed puts it in the place of lm_head

    def forward(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KVCache | KVRows | None = None,
    ) -> Tensor:
        hidden_BTD = self.hidden(ids_BT, documents_BT=documents_BT, positions_BT=positions_BT, cache=cache)
        return self.head(hidden_BTD)

    def head(self, hidden_BTD: Tensor) -> Tensor:
        """Return `logits_BTV` of hidden states."""
        if self.packed_head is not None:
            packed_BTV: Tensor = self.packed_head(hidden_BTD)
            return packed_BTV
        return nn.functional.linear(hidden_BTD, self.head_weight())

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KVCache | KVRows | None = None,
    ) -> Tensor:
        past, tokens = (0 if cache is None else cache.length), ids_BT.shape[1]
        if positions_BT is None:
            positions_BT = torch.arange(past, past + tokens, device=ids_BT.device)[None]
        head_width = self.blocks()[0].self_attn.head_width
        tables = rotary_tables(positions_BT, head_width, self.theta, yarn=self.yarn, as_published=self.as_published)
        mask_BTS = attention_mask(documents_BT, tokens, past, ids_BT.device)
        x_BTD = self.model.embed_tokens(ids_BT)
        if not torch.is_grad_enabled():
            tables = whole_tables(tables, x_BTD.dtype)
        for index, block in enumerate(self.blocks()):
            x_BTD = block(x_BTD, tables, mask_BTS, cache, index)
        if cache is not None:
            cache.advance(tokens)
        normed_BTD: Tensor = self.model.norm(x_BTD)
        return normed_BTD

    def head_weight(self) -> Tensor:
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def new_cache(self, batch_size: int, length: int) -> KVCache:
        attention = self.blocks()[0].self_attn
        return KVCache(len(self.blocks()), (batch_size, attention.kv_heads, length, attention.head_width))

    def blocks(self) -> Sequence[Block]:
        return self.model.layers  # type: ignore[return-value]  # ModuleList is a sequence of what it was given

    def roles(self) -> dict[str, Role]:
        return {name: _role(name, parameter) for name, parameter in self.named_parameters()}

    def flops_per_token(self, sequence_length: int) -> int:
        """2 operations a weight of every matrix product, and T/2 keys a query on average under the causal mask
        (Kaplan et al. 2020, appendix B), times 3 for forward and backward."""
        products = sum(map(_product_weights, self.blocks())) + self.vocab_size * self.width
        query_width = self.blocks()[0].self_attn.heads * self.blocks()[0].self_attn.head_width
        attention = 2 * len(self.blocks()) * query_width * (sequence_length + 1) // 2
        return 3 * 2 * (products + attention)

    def initialise(self, std: float = 0.02) -> None:
        """Draw every matrix from N(0, std), and those that write into the residual stream with std / sqrt(2 blocks)
        (Radford et al. 2019), from torch's global generator. Biases are 0. On the meta device nothing is drawn."""
        if self.model.norm.weight.is_meta:
            return
        residual = std / math.sqrt(2 * len(self.blocks()))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual if writes else std)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)


def _product_weights(module: nn.Module) -> int:
    """Return the weights of the matrix products below a module, by the sizes that linear modules state: those of one
    that is adapted, quantised or not, and those of its adapter."""
    children = (child for name, child in module.named_children() if name != "base_layer")
    below = sum(map(_product_weights, children))
    if hasattr(module, "in_features"):
        return below + int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
    return below + sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)


def _role(name: str, parameter: Tensor) -> Role:
    if name.endswith(".bias"):
        return "bias"
    if "embed" in name:
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    return "norm" if parameter.ndim < 2 else "hidden"
