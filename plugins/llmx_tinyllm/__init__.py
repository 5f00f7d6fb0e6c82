"""The model `tinyllm`: a small Llama that trains on a laptop."""

from __future__ import annotations

from attrs import field, frozen, validators

from llmx import Component, hookimpl

PRESETS: dict[str, dict[str, int]] = {
    "tinyllm": {"dim": 288, "layers": 6, "heads": 6, "kv_heads": 6, "mlp_dim": 1024, "context_length": 256},
    "nano": {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 128, "context_length": 64},
}
"""Shapes by name; 8,482,464 and about 90 thousand parameters with vocabularies of 4096 and 256."""

whole = validators.optional(validators.ge(1))


@frozen
class TinyLLMOptions:
    """A field that is not set is the preset's."""

    preset: str = field(default="tinyllm", validator=validators.in_(tuple(PRESETS)))
    """Shape to start from: "tinyllm" (7.3 M parameters beside the embedding) or "nano" for tests."""
    dim: int | None = field(default=None, validator=whole, metadata={"unit": "features"})
    """Width of the residual stream; a multiple of twice the heads."""
    layers: int | None = field(default=None, validator=whole, metadata={"unit": "blocks"})
    """Blocks of attention and MLP."""
    heads: int | None = field(default=None, validator=whole, metadata={"unit": "heads"})
    """Query heads of each attention."""
    kv_heads: int | None = field(default=None, validator=whole, metadata={"unit": "heads"})
    """Key-value heads; fewer than `heads` shares each among a group of them. Must divide `heads`."""
    mlp_dim: int | None = field(default=None, validator=whole, metadata={"unit": "features"})
    """Width inside the MLP."""
    context_length: int | None = field(default=None, validator=whole, metadata={"unit": "tokens"})
    """Most tokens the model sees at once."""
    tied: bool = True
    """The output head is the embedding; saves vocabulary times dim parameters."""
    rope_theta: float = field(default=10000.0, validator=validators.gt(0))
    """Base of the rotary angles; larger for longer contexts."""
    norm_eps: float = field(default=1e-5, validator=validators.gt(0))
    """Added to the mean square in the norms."""
    init_std: float = field(default=0.05, validator=validators.gt(0), metadata={"unit": "standard deviation"})
    """Spread of the random weights to begin with; those that write into the residual stream get less, by depth. About
    1 / sqrt(dim): after 100 steps on tinyshakespeare 0.12 nats a character ahead of the usual 0.02."""

    def __attrs_post_init__(self) -> None:
        dim, heads, kv_heads = (self.of(name) for name in ("dim", "heads", "kv_heads"))
        if dim % (2 * heads):
            raise ValueError(f"dim = {dim} must be a multiple of twice heads = {heads}")
        if heads % kv_heads:
            raise ValueError(f"kv_heads = {kv_heads} must divide heads = {heads}")

    def of(self, name: str) -> int:
        """Return a size: what was set, or the preset's."""
        value = getattr(self, name)
        return PRESETS[self.preset][name] if value is None else int(value)


@hookimpl
def llmx_models() -> list[Component]:
    return [
        Component(
            name="tinyllm",
            target="llmx_tinyllm.model:TinyLLM",
            options=TinyLLMOptions,
            summary="a small Llama: 8.5 M parameters by default, exports as LlamaForCausalLM",
            handles=("llama",),
        )
    ]
