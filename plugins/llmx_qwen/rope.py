"""Rotary settings of a config.json: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import CheckpointError
from llmx.nn import Yarn

YARN = {
    "factor": "yarn_factor",
    "original_max_position_embeddings": "yarn_original_context",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "attention_factor": "yarn_attention_factor",
}
"""Names in a config, and of our options."""
KNOWN = {"rope_type", "type", "rope_theta", *YARN}
HARMLESS = {"partial_rotary_factor": 1.0, "truncate": True, "mscale": None, "mscale_all_dim": None}
"""Settings that we do not have, and the value with which they change nothing."""
DEFAULT_THETA = 10_000.0
"""What transformers takes for a config that says nothing."""


def write(theta: float, yarn: Yarn | None) -> dict[str, Any]:
    """Return the settings in both spellings."""
    if yarn is None:
        plain = {"rope_type": "default", "rope_theta": theta}
        return {"rope_theta": theta, "rope_scaling": None, "rope_parameters": plain}
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_context,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "attention_factor": yarn.scale,
    }
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": {**scaling, "rope_theta": theta}}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options of the settings, the context among them where YaRN stretches it.

    Raises:
        CheckpointError: they are of a kind that we do not have, or contradict each other.
    """
    new, old = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    kinds = {_kind(each) for each in (new, old) if each}
    if len(kinds) > 1:
        raise CheckpointError(f"config.json: rope_parameters and rope_scaling differ: {new!r}, {old!r}; mend one")
    settings = {**old, **new}
    context = int(config["max_position_embeddings"])
    options = {"rope_theta": float(settings.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA)}
    kind = _kind(settings)
    if kind == "default":
        return {**options, "context_length": context}
    unknown = [k for k, v in settings.items() if k not in KNOWN and not (k in HARMLESS and v == HARMLESS[k])]
    if kind != "yarn" or unknown:
        what = f"{unknown[0]} = {settings[unknown[0]]!r}" if unknown and kind == "yarn" else repr(kind)
        raise CheckpointError(f"config.json: rotary angles of kind {what}: only default and yarn are read")
    yarn = {ours: settings[theirs] for theirs, ours in YARN.items() if settings.get(theirs) is not None}
    original = int(yarn.setdefault("yarn_original_context", context))
    factor = float(yarn.setdefault("yarn_factor", context / original))
    # Qwen's model cards add YaRN and leave max_position_embeddings at what was trained
    return {**options, **yarn, "yarn_factor": factor, "context_length": max(context, int(factor * original))}


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("rope_type") or settings.get("type") or "default")
