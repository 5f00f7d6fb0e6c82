"""Parts that decoder models are built from; plugins import them from here."""

from llmx.nn.adapted import Adapted, adapted_modules, count_weights, without_adapters
from llmx.nn.attention import Attention, attend, attention_mask
from llmx.nn.cache import KVCache
from llmx.nn.decoder import Block, Decoder
from llmx.nn.loss import linear_cross_entropy, linear_log_probs
from llmx.nn.mlp import SwiGLU
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import Yarn, rotary_tables, rotate
from llmx.nn.shapes import only_shape

__all__ = [
    "Adapted",
    "Attention",
    "Block",
    "Decoder",
    "KVCache",
    "RMSNorm",
    "SwiGLU",
    "Yarn",
    "adapted_modules",
    "attend",
    "attention_mask",
    "count_weights",
    "linear_cross_entropy",
    "linear_log_probs",
    "only_shape",
    "rotary_tables",
    "rotate",
    "without_adapters",
]
