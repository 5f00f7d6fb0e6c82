"""bitsandbytes' functions, without its advice to install a kernel that would not be used here."""

from __future__ import annotations

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # on a CPU with AVX512_BF16, at import

from bitsandbytes.functional import (  # noqa: E402  # after its logger is set
    QuantState,
    create_dynamic_map,
    dequantize_4bit,
    dequantize_blockwise,
    get_4bit_type,
    int8_vectorwise_quant,
    quantize_4bit,
    quantize_blockwise,
)

__all__ = [
    "QuantState",
    "create_dynamic_map",
    "dequantize_4bit",
    "dequantize_blockwise",
    "get_4bit_type",
    "int8_vectorwise_quant",
    "quantize_4bit",
    "quantize_blockwise",
]
