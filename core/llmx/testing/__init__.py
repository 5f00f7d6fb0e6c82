"""Checks for authors of plugins: each raises AssertionError with what is wrong."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.protocols import Model

TOLERANCE = 1e-5
"""Largest difference of fp32 logits that rounding explains; a part of the largest logit where that is more than 1."""


def check_cached_decoding(model: Model, *, length: int = 32, seed: int = 0) -> None:
    """Check that decoding with a cache gives the logits of the full forward at every position.

    The tokens go in as a prefill, as a few at once, and then one by one; two rows at a time.

    Args:
        length: tokens of each row; at most the model's context.

    Raises:
        AssertionError: a logit differs by more than rounding explains, or the cache counts wrong.
        LlmxError: this interpreter leaves assertions out.
    """
    import torch

    from llmx.testing.frame import require_assertions

    require_assertions()
    module: Any = model
    module.eval()
    length = min(length, model.context_length)
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(model.vocab_size, (2, length), generator=generator)
    cuts = sorted({0, length // 3, length // 2, *range(length // 2 + 1, length + 1)})
    with torch.no_grad():
        full_BTV = model(ids_BT)
        cache = model.new_cache(2, length)
        parts = [model(ids_BT[:, a:b], cache=cache) for a, b in itertools.pairwise(cuts)]
    off_T = (torch.cat(parts, 1) - full_BTV).abs().amax((0, 2)) / max(1.0, float(full_BTV.abs().max()))
    wrong = (~(off_T <= TOLERANCE)).nonzero().flatten().tolist()  # a NaN is wrong too
    assert not wrong, (
        f"cached decoding differs from the full forward by {float(off_T[wrong[0]]):.1e} at position {wrong[0]} "
        f"(allowed {TOLERANCE:.0e}); tokens went in at {', '.join(map(str, cuts[:4]))}, …"
    )
    assert cache.length == length, f"the cache counts {cache.length} tokens of {length}"
