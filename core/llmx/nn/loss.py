"""Cross-entropy of a linear head.

Shapes: `M` positions, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from llmx.protocols import IGNORE


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """Return the sum over labelled positions of -log softmax(hidden weight^T)[label], in nats, in fp32."""
    logits_MV = F.linear(hidden_MD, weight_VD)
    return F.cross_entropy(logits_MV.float(), labels_M, ignore_index=IGNORE, reduction="sum")
