"""Shapes of the Qwen models by name: small ones to train from scratch, and those that were published.

Parameters of the small ones with a vocabulary of 4096, Qwen3 / Qwen2.5: tiny 1.51 / 1.51 M, small 6.07 / 6.07 M, medium
24.1 / 24.1 M, large 96.3 / 96.3 M. Their rotary base is 10,000 and not the published million, which is for contexts of
tens of thousands; their initial weights are spread by about 1 / sqrt(dim), as TinyLLM's.

The published numbers are those of each config.json, of the base model where there are several.
"""

from __future__ import annotations

Shape = dict[str, int | float | bool]


def _shape(
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_dim: int,
    context: int,
    *,
    tied: bool = True,
    theta: float = 1_000_000.0,
    eps: float = 1e-6,
    std: float = 0.02,
) -> Shape:
    return {
        "dim": dim,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": dim // heads,
        "mlp_dim": mlp_dim,
        "context_length": context,
        "tied": tied,
        "rope_theta": theta,
        "norm_eps": eps,
        "init_std": std,
    }


SMALL: dict[str, Shape] = {
    "tiny": _shape(128, 5, 4, 2, 384, 256, theta=10_000.0, std=0.08),
    "small": _shape(256, 6, 8, 4, 832, 512, theta=10_000.0, std=0.06),
    "medium": _shape(512, 8, 8, 4, 1280, 1024, theta=10_000.0, std=0.045),
    "large": _shape(768, 12, 12, 4, 2688, 1024, theta=10_000.0, std=0.035),
}

QWEN3: dict[str, Shape] = SMALL | {
    name: shape | {"head_dim": 128}
    for name, shape in {
        "0.6b": _shape(1024, 28, 16, 8, 3072, 40_960),
        "1.7b": _shape(2048, 28, 16, 8, 6144, 40_960),
        "4b": _shape(2560, 36, 32, 8, 9728, 40_960),
        "8b": _shape(4096, 36, 32, 8, 12_288, 40_960, tied=False),
        "14b": _shape(5120, 40, 40, 8, 17_408, 40_960, tied=False),
        "32b": _shape(5120, 64, 64, 8, 25_600, 40_960, tied=False),
    }.items()
}

QWEN25: dict[str, Shape] = SMALL | {
    "0.5b": _shape(896, 24, 14, 2, 4864, 32_768),
    "1.5b": _shape(1536, 28, 12, 2, 8960, 131_072),
    "3b": _shape(2048, 36, 16, 2, 11_008, 32_768),
    "7b": _shape(3584, 28, 28, 4, 18_944, 131_072, tied=False),
    "14b": _shape(5120, 48, 40, 8, 13_824, 131_072, tied=False, eps=1e-5),
    "32b": _shape(5120, 64, 40, 8, 27_648, 131_072, tied=False, eps=1e-5),
    "72b": _shape(8192, 80, 64, 8, 29_568, 131_072, tied=False, eps=1e-5),
}
