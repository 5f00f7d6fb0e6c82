"""A plan as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmx.plan.fit import Advice
    from llmx.plan.make import Plan


def text_of(plan: Plan) -> str:
    """Return the plan in lines."""
    rows = [
        ("model", f"{plan.model}, {plan.parameters:,} parameters, vocabulary {plan.vocab_size:,}"),
        ("", f"{plan.trained_parameters:,} of them are trained"),
        ("data", f"about {plan.training_tokens:,} training tokens"),
        ("run", f"{plan.steps:,} steps of {plan.tokens_per_update:,} tokens = {plan.total_tokens:,} tokens"),
        *([("update", plan.tokens_per_update_working)] if plan.tokens_per_update_working else []),
        *(("rate", f"{name}: {rate:.3g} = {working}") for name, (rate, working) in _worked(plan)),
        ("", f"{plan.epochs:.2f} epochs, {plan.flops:.2e} floating-point operations"),
        *([("", "an update is more than an epoch: lower train.tokens_per_update")] if _is_long(plan) else []),
        ("time", f"about {time_text(plan.seconds)} for the updates: {plan.pace.how}"),
        ("memory", f"about {size_text(plan.memory_bytes)} at most:"),
        *(("", f"{size_text(size):>10}  {what}") for what, size in _parts(plan) if size),
        ("disk", f"about {size_text(plan.disk_bytes)}: {plan.disk.checkpoints} checkpoints of "
                 f"{size_text(plan.disk.checkpoint)}, the model {size_text(plan.disk.model)}, "
                 f"tokens {size_text(plan.disk.tokens)}"),
        ("device", f"{plan.device}, {plan.precision}"),
        *_limit(plan),
    ]  # fmt: skip
    return "\n".join(f"{name:8}{value}" for name, value in rows) + "\nNothing was trained or written."


def _worked(plan: Plan) -> list[tuple[str, tuple[float, str]]]:
    return [(name, rate) for name, rate in plan.learning_rates.items() if rate[1]]


def _is_long(plan: Plan) -> bool:
    return plan.epochs > plan.steps


def _parts(plan: Plan) -> list[tuple[str, int]]:
    memory = plan.memory
    rows = f"{plan.micro_batch} x {plan.sequence_length} tokens"
    return [
        *((f"weights, {kind}", size) for kind, size in memory.weights.items()),
        ("gradients", memory.gradients),
        ("state of the optimizer", memory.optimizer),
        (f"activations of a micro-batch of {rows}", memory.activations),
        ("the objective's copy of the model", memory.reference),
        ("Python, libraries, corpus", memory.process),
        ("gaps in the heap, scratch of kernels", memory.heap),
        ("if more than their sum: reading the corpus", memory.preparation if memory.preparation == memory.peak else 0),
        ("if more than their sum: merging at the end", memory.end if memory.end == memory.peak else 0),
        ("and of the host's memory", memory.host),
    ]


def _limit(plan: Plan) -> list[tuple[str, str]]:
    if plan.limit_bytes is None:
        return []
    if plan.advice is None:
        return [("limit", f"{size_text(plan.limit_bytes)}: it fits")]
    return [("limit", f"{size_text(plan.limit_bytes)}: it does not fit; {advice_text(plan.advice)}")]


def advice_text(advice: Advice) -> str:
    """Return in a line what to change."""
    given = " ".join(advice.overrides)
    if advice.fits:
        return f"with {given} it takes {size_text(advice.peak)}"
    return f"even with {given} it takes {size_text(advice.peak)}" if given else "there is nothing to change"


def size_text(size: float) -> str:
    """Return a size in the largest unit of which it has one."""
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.2f} {unit}" if unit == "GiB" else f"{size / 1024**power:.0f} {unit}"
    return f"{size:.0f} B"


def time_text(seconds: float) -> str:
    """Return a time in the largest unit of which it has two."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else f"{seconds:.1f} seconds"
