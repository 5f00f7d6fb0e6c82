"""The models `qwen3` and `qwen2.5`: dense Qwen decoders at any size, from scratch or from a published folder."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import field, frozen, validators

from llmx import Component, hookimpl
from llmx_qwen.sizes import QWEN3, QWEN25, Shape

whole: Any = validators.optional(validators.ge(1))
positive: Any = validators.optional(validators.gt(0))
FEATURES, HEADS = {"unit": "features"}, {"unit": "heads"}


@frozen
class QwenOptions:
    """What both families have; a field that is not set is the preset's."""

    shapes: ClassVar[dict[str, Shape]]

    dim: int | None = field(default=None, validator=whole, metadata=FEATURES)
    """Width of the residual stream."""
    layers: int | None = field(default=None, validator=whole, metadata={"unit": "blocks"})
    """Blocks of attention and MLP."""
    heads: int | None = field(default=None, validator=whole, metadata=HEADS)
    """Query heads of each attention."""
    kv_heads: int | None = field(default=None, validator=whole, metadata=HEADS)
    """Key-value heads; fewer than `heads` shares each among a group of them. Must divide `heads`."""
    mlp_dim: int | None = field(default=None, validator=whole, metadata=FEATURES)
    """Width inside the MLP."""
    context_length: int | None = field(default=None, validator=whole, metadata={"unit": "tokens"})
    """Most tokens the model sees at once. With YaRN unset is factor times original context, and less is refused:
    transformers 4 would read another factor out of it."""
    vocab_size: int | None = field(default=None, validator=whole, metadata={"unit": "ids"})
    """Rows of the embedding. Unset: the tokenizer's ids; published models have some more (151,936 for 151,669), and
    speed may gain from a multiple of 64."""
    tied: bool | None = None
    """The output head is the embedding; saves vocabulary times dim parameters. Unset: tied up to Qwen3 4B and
    Qwen2.5 3B, as published."""
    rope_theta: float | None = field(default=None, validator=validators.optional(validators.gt(1)))
    """Base of the rotary angles; larger for longer contexts."""
    norm_eps: float | None = field(default=None, validator=positive)
    """Added to the mean square in the norms."""
    init_std: float | None = field(default=None, validator=positive, metadata={"unit": "standard deviation"})
    """Spread of the random weights to begin with; those that write into the residual stream get less, by depth."""
    yarn_factor: float | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Stretches the context by this factor with YaRN (Peng et al. 2023). Unset: no YaRN."""
    yarn_original_context: int | None = field(default=None, validator=whole, metadata={"unit": "tokens"})
    """Tokens the weights were trained to see, which YaRN stretches. Unset: the preset's context."""
    yarn_beta_fast: float | None = field(default=None, validator=positive, metadata={"unit": "turns"})
    """Features that turn this often within the original context keep their frequency. Unset: the paper's 32."""
    yarn_beta_slow: float | None = field(default=None, validator=positive, metadata={"unit": "turns"})
    """Features that turn at most this often have theirs divided by the factor. Unset: the paper's 1."""
    yarn_attention_factor: float | None = field(default=None, validator=positive)
    """Scale of the rotary tables. Unset: the paper's 0.1 ln(factor) + 1."""

    def __attrs_post_init__(self) -> None:
        heads, kv_heads = self.of("heads"), self.of("kv_heads")
        if heads % kv_heads:
            raise ValueError(f"kv_heads = {kv_heads} must divide heads = {heads}")
        if self.head_width % 2:
            raise ValueError(f"head_dim = {self.head_width} must be even: rotary angles turn pairs")
        given = [name for name in YARN if getattr(self, name) is not None]
        if self.yarn_factor is None and given:
            raise ValueError(f"{given[0]} says how YaRN stretches the context: set yarn_factor too")
        if self.yarn_factor is not None and self.context < self.stretched_context:
            raise ValueError(
                f"context_length = {self.context} must be at least yarn_factor times the original context, "
                f"{self.stretched_context}: leave it unset"
            )

    def of(self, name: str) -> Any:
        """Return a value: what was set, or the preset's."""
        value = getattr(self, name)
        return self.shapes[self.preset][name] if value is None else value

    @property
    def head_width(self) -> int:
        """Features of a head."""
        dim, heads = self.of("dim"), self.of("heads")
        if dim % heads:
            raise ValueError(f"dim = {dim} must be a multiple of heads = {heads}")
        return int(dim // heads)

    @property
    def original_context(self) -> int:
        """Tokens that YaRN stretches."""
        return self.yarn_original_context or int(self.shapes[self.preset]["context_length"])

    @property
    def stretched_context(self) -> int:
        """Tokens that YaRN stretches them to."""
        return int((self.yarn_factor or 1.0) * self.original_context)

    @property
    def context(self) -> int:
        """Most tokens the model sees."""
        if self.context_length is None and self.yarn_factor is not None:
            return self.stretched_context
        return int(self.of("context_length"))


YARN = ("yarn_original_context", "yarn_beta_fast", "yarn_beta_slow", "yarn_attention_factor")


@frozen
class Qwen3Options(QwenOptions):
    """A field that is not set is the preset's."""

    shapes: ClassVar[dict[str, Shape]] = QWEN3

    preset: str = field(default="tiny", validator=validators.in_(tuple(QWEN3)))
    """Shape to start from: "tiny", "small", "medium", "large" (1.5, 6.1, 24 and 96 M parameters with 4096 ids), or a
    published size, "0.6b" to "32b"."""
    head_dim: int | None = field(default=None, validator=whole, metadata=FEATURES)
    """Features of a head; `heads` times it may differ from `dim`. Unset: the preset's, or dim / heads where either of
    those is set."""

    @property
    def head_width(self) -> int:
        """Features of a head."""
        if self.head_dim is None and (self.dim or self.heads):
            return super().head_width
        return int(self.of("head_dim"))


@frozen
class Qwen25Options(QwenOptions):
    """A field that is not set is the preset's."""

    shapes: ClassVar[dict[str, Shape]] = QWEN25

    preset: str = field(default="tiny", validator=validators.in_(tuple(QWEN25)))
    """Shape to start from: "tiny", "small", "medium", "large" (1.5, 6.1, 24 and 96 M parameters with 4096 ids), or a
    published size, "0.5b" to "72b"."""


@hookimpl
def llmx_models() -> list[Component]:
    return [
        Component(
            name="qwen3",
            target="llmx_qwen.model:Qwen3",
            options=Qwen3Options,
            summary="Qwen3, dense: normalised heads; 1.5 M parameters by default, published sizes by preset",
            handles=("qwen3",),
        ),
        Component(
            name="qwen2.5",
            target="llmx_qwen.model:Qwen25",
            options=Qwen25Options,
            summary="Qwen2.5 and Qwen2, dense: biases on q, k and v; 1.5 M parameters by default",
            handles=("qwen2",),
        ),
    ]
