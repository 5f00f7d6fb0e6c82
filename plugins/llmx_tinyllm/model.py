"""TinyLLM: the Llama architecture at a size for laptops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import CheckpointError
from llmx.nn import Attention, Block, Decoder, SwiGLU
from llmx_tinyllm import TinyLLMOptions


class TinyLLM(Decoder):
    """Pre-norm decoder with rotary attention, SwiGLU and RMSNorm (Touvron et al. 2023)."""

    def __init__(self, options: TinyLLMOptions, *, vocab_size: int) -> None:
        self.options = options
        dim, heads, kv_heads = options.of("dim"), options.of("heads"), options.of("kv_heads")
        super().__init__(
            vocab_size=vocab_size,
            width=dim,
            context_length=options.of("context_length"),
            blocks=[
                Block(
                    Attention(dim, heads, kv_heads, dim // heads),
                    SwiGLU(dim, options.of("mlp_dim")),
                    width=dim,
                    eps=options.norm_eps,
                )
                for _ in range(options.of("layers"))
            ],
            eps=options.norm_eps,
            theta=options.rope_theta,
            tied=options.tied,
        )
        self.initialise(options.init_std)

    def to_config(self) -> dict[str, Any]:
        """Return the config of `LlamaForCausalLM`, in the spelling of transformers 4 and 5."""
        options = self.options
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": options.of("dim"),
            "intermediate_size": options.of("mlp_dim"),
            "num_hidden_layers": options.of("layers"),
            "num_attention_heads": options.of("heads"),
            "num_key_value_heads": options.of("kv_heads"),
            "head_dim": options.of("dim") // options.of("heads"),
            "max_position_embeddings": self.context_length,
            "initializer_range": options.init_std,
            "rms_norm_eps": options.norm_eps,
            "rope_theta": options.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": options.rope_theta},
            "tie_word_embeddings": options.tied,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TinyLLM:
        """Build the model of a Llama config.

        Raises:
            CheckpointError: the config asks for what TinyLLM does not have.
        """
        rope = config.get("rope_parameters") or {}
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        unsupported = {
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "attention_bias": config.get("attention_bias", False),
            "mlp_bias": config.get("mlp_bias", False),
            "rope_scaling": config.get("rope_scaling") or rope.get("rope_type", "default") != "default",
            "head_dim": head_dim * heads != config["hidden_size"],
        }
        if any(unsupported.values()):
            named = ", ".join(f"{key} = {config.get(key)!r}" for key, found in unsupported.items() if found)
            raise CheckpointError(f"config.json: tinyllm cannot build a Llama with {named}")
        options = TinyLLMOptions(
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            mlp_dim=config["intermediate_size"],
            context_length=config["max_position_embeddings"],
            tied=config.get("tie_word_embeddings", False),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            norm_eps=config["rms_norm_eps"],
            init_std=config.get("initializer_range", 0.02),
        )
        return cls(options, vocab_size=config["vocab_size"])
