"""Parts that decoder models are built from; plugins import them from here."""

from llmx.nn.attention import Attention, attend, attention_mask
from llmx.nn.cache import KVCache
from llmx.nn.decoder import Block, Decoder
from llmx.nn.loss import linear_cross_entropy
from llmx.nn.mlp import SwiGLU
from llmx.nn.norm import RMSNorm
from llmx.nn.rotary import rotary_tables, rotate

__all__ = [
    "Attention",
    "Block",
    "Decoder",
    "KVCache",
    "RMSNorm",
    "SwiGLU",
    "attend",
    "attention_mask",
    "linear_cross_entropy",
    "rotary_tables",
    "rotate",
]
