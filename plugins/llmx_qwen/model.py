"""Qwen3 and Qwen2.5: pre-norm decoders with rotary attention over grouped heads and SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from llmx import CheckpointError, RecipeError
from llmx.nn import Attention, Block, Decoder, SwiGLU, Yarn
from llmx_qwen import Qwen3Options, Qwen25Options, QwenOptions, rope


class Qwen(Decoder):
    """What both families have; each says what its attention has besides."""

    Options: ClassVar[type[QwenOptions]]
    architecture: ClassVar[str]
    model_type: ClassVar[str]

    def __init__(self, options: QwenOptions, *, vocab_size: int) -> None:
        self.options = options
        rows = vocab_size if options.vocab_size is None else options.vocab_size
        if rows < vocab_size:
            raise RecipeError(f"model.vocab_size = {rows}: fewer than the tokenizer's {vocab_size} ids; leave it unset")
        dim, eps = options.of("dim"), options.of("norm_eps")
        super().__init__(
            vocab_size=rows,
            width=dim,
            context_length=options.context,
            blocks=[
                Block(self.attention(), SwiGLU(dim, options.of("mlp_dim")), width=dim, eps=eps)
                for _ in range(options.of("layers"))
            ],
            eps=eps,
            theta=options.of("rope_theta"),
            tied=options.of("tied"),
            yarn=yarn_of(options),
            as_published=True,
        )
        self.initialise(options.of("init_std"))

    def attention(self) -> Attention:
        """Return the attention of one block."""
        raise NotImplementedError

    def to_config(self) -> dict[str, Any]:
        """Return the config of the family, in the spelling of transformers 4 and 5."""
        options = self.options
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "intermediate_size": options.of("mlp_dim"),
            "num_hidden_layers": options.of("layers"),
            "num_attention_heads": options.of("heads"),
            "num_key_value_heads": options.of("kv_heads"),
            "max_position_embeddings": self.context_length,
            "initializer_range": options.of("init_std"),
            "rms_norm_eps": options.of("norm_eps"),
            **rope.write(self.theta, self.yarn),
            "tie_word_embeddings": options.of("tied"),
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "use_cache": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": options.of("layers"),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the model of a config.

        Raises:
            CheckpointError: the config asks for what the model does not have.
        """
        refused = [key for key, found in cls.unsupported(config).items() if found]
        if refused:
            named = ", ".join(f"{key} = {config.get(key)!r}" for key in refused)
            raise CheckpointError(f"config.json: {cls.model_type} with {named} is not a model that llmx builds")
        options = cls.Options(
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"] or config["num_attention_heads"],
            mlp_dim=config["intermediate_size"],
            tied=config.get("tie_word_embeddings", False),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            init_std=config.get("initializer_range", 0.02),
            **rope.read(config),
            **cls.own_options(config),
        )
        return cls(options, vocab_size=config["vocab_size"])

    @classmethod
    def unsupported(cls, config: Mapping[str, Any]) -> dict[str, bool]:
        """Return for each key of a config whether it asks for what the model does not have."""
        return {
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "attention_dropout": bool(config.get("attention_dropout")),
            "use_sliding_window": slides(config),
            "quantization_config": bool(config.get("quantization_config")),
        }

    @classmethod
    def own_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003  # Qwen3 reads it
        """Return the options that only this family has."""
        return {}


class Qwen3(Qwen):
    """Each head of queries and keys is normalised (Qwen3 technical report, 2025)."""

    Options = Qwen3Options
    architecture = "Qwen3ForCausalLM"
    model_type = "qwen3"

    def attention(self) -> Attention:
        o = self.options
        return Attention(
            o.of("dim"), o.of("heads"), o.of("kv_heads"), o.head_width, qk_norm_eps=o.of("norm_eps")
        )  # fmt: skip

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "head_dim": self.options.head_width, "attention_bias": False}

    @classmethod
    def unsupported(cls, config: Mapping[str, Any]) -> dict[str, bool]:
        return {**super().unsupported(config), "attention_bias": bool(config.get("attention_bias"))}

    @classmethod
    def own_options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"head_dim": config.get("head_dim") or 128}  # transformers' own default


class Qwen25(Qwen):
    """Queries, keys and values have a bias (Qwen2.5 technical report, 2024)."""

    Options = Qwen25Options
    architecture = "Qwen2ForCausalLM"
    model_type = "qwen2"

    def attention(self) -> Attention:
        o = self.options
        return Attention(o.of("dim"), o.of("heads"), o.of("kv_heads"), o.head_width, qkv_bias=True)

    @classmethod
    def unsupported(cls, config: Mapping[str, Any]) -> dict[str, bool]:
        head_dim = config.get("head_dim")
        other = bool(head_dim) and head_dim * config["num_attention_heads"] != config["hidden_size"]
        return {**super().unsupported(config), "head_dim": other, "use_mrope": bool(config.get("use_mrope"))}


def yarn_of(options: QwenOptions) -> Yarn | None:
    """Return how the options stretch the context."""
    if options.yarn_factor is None:
        return None
    betas = {"beta_fast": options.yarn_beta_fast, "beta_slow": options.yarn_beta_slow}
    return Yarn(
        factor=options.yarn_factor,
        original_context=options.original_context,
        attention_factor=options.yarn_attention_factor,
        **{name: value for name, value in betas.items() if value is not None},
    )


def slides(config: Mapping[str, Any]) -> bool:
    """Return whether a layer has a sliding window: settings of one that is off stand in many configs."""
    if not (config.get("use_sliding_window") and config.get("sliding_window")):
        return False
    kinds = config.get("layer_types")
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return int(config.get("max_window_layers", 28)) < int(config["num_hidden_layers"])  # transformers' own default
