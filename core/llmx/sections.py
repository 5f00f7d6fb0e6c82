"""The sections of a recipe that are no part: numbers of the core itself."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from attrs import field, frozen, validators

from llmx.protocols import ROLES

Precision = Literal["auto", "fp32", "bf16", "fp16"]

positive: Any = validators.ge(1)
optional_whole: Any = validators.optional(validators.ge(1))
positive_float: Any = validators.gt(0)
optional_positive: Any = validators.optional(validators.gt(0))
whole_or_auto: Any = validators.or_(validators.in_(("auto",)), validators.and_(validators.instance_of(int), positive))


def _known_roles(_: Any, __: Any, value: tuple[str, ...]) -> None:
    known = list(dict.fromkeys(ROLES.values()))
    for role in value:
        if role not in known:
            near = difflib.get_close_matches(role, known, n=1) or known
            raise ValueError(f"no such role {role!r}; nearest: {', '.join(near)}")


@frozen
class TrainOptions:
    """How the weights move."""

    steps: int = field(default=120, validator=positive)
    """Optimizer updates. The default suits the embedded corpus: two to three minutes on two CPU cores."""
    epochs: float | None = field(default=None, validator=optional_positive)
    """Passes over the training tokens; given, it takes the place of `steps`."""
    seed: int = field(default=0, validator=validators.ge(0))
    """Seed of the weights, of the order of samples and of dropout."""
    tokens_per_update: int | Literal["auto"] = field(default=8192, validator=whole_or_auto)
    """Tokens read for one optimizer update, over all ranks and micro-batches; a multiple of the sequence length. "auto"
    takes (N * D)^0.4 of N parameters and D training tokens, in whole rows, at most a twentieth of an epoch."""
    micro_batch: int | None = field(default=None, validator=optional_whole, metadata={"unit": "rows"})
    """Rows in one forward and backward pass; less takes less memory, and the same update. Unset: all rows at once."""
    clip_norm: float = field(default=1.0, validator=positive_float)
    """Largest L2 norm of the whole gradient; a larger one is scaled down to it. `inf` never clips."""
    precision: Precision = "auto"
    """Type of the matrix products; weights and optimizer state stay in fp32 unless `weights` says otherwise. "auto" is
    bf16 where the device computes in it and fp32 elsewhere; fp16 scales the loss."""
    weights: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the weights. "auto" is fp32 for what is trained, and for a base that an adapter freezes the type of
    `precision`, for it is only read. "bf16" halves the memory of all, and small updates are lost to rounding; it needs
    `precision` bf16. What an adapter adds is fp32 always."""
    checkpointing: Literal["none", "block", "selective"] = "none"
    """What the forward pass computes again in the backward pass instead of keeping it: "block" keeps only what goes
    into each block, and costs about a third more time; "selective" keeps the results of matrix products and attention
    besides, and costs little. The loss is the same bit for bit."""
    host_embedding: bool = False
    """Keep the embedding in the host's memory and look its rows up there, which saves vocabulary times width weights of
    an accelerator's. On a CPU it changes nothing; not for a model whose head is the embedding."""
    compile: bool = False
    """Compile the loss with torch.compile: slower to start, faster to run; needs a C++ compiler on CPU."""
    device: str = "auto"
    """Where to train: "cpu", "cuda", "cuda:1", "mps". "auto" is the first accelerator, or the CPU."""


@frozen
class EvalOptions:
    """How the run is measured on held-out documents."""

    every: int | None = field(default=None, validator=optional_whole, metadata={"unit": "steps"})
    """Steps between evaluations; there is always one after the last step. Unset: a tenth of the run."""
    tokens: int = field(default=262_144, validator=validators.ge(0))
    """Most held-out tokens to read in one evaluation, the same ones each time; 0 reads all."""


@frozen
class CheckpointOptions:
    """What is kept of a run, to resume and to use."""

    every: int | None = field(default=None, validator=optional_whole, metadata={"unit": "steps"})
    """Steps between checkpoints; there is always one after the last step. Unset: a fifth of the run."""
    keep_last: int = field(default=2, validator=positive)
    """Newest checkpoints to keep; the one with the best validation loss is kept besides."""
    every_epoch: bool = False
    """Save and keep a checkpoint at the end of each epoch, whatever `every` and `keep_last` say."""
    export: Literal["last", "best"] = "last"
    """Which weights `model/` holds at the end."""
    merge: bool | None = None
    """Whether the end of a run with adapters writes `model/`, the base with the adapters merged into it, besides
    `adapter/`. Unset: it does, unless the base is quantised: merged it is as large as before, and a little worse."""


@frozen
class ModelSource:
    """Where the weights begin; the section's other keys are the model's own options."""

    pretrained: str = ""
    """A Hugging Face folder, `org/name` of the Hugging Face Hub (`org/name@revision`; the extra `hub`), or
    `modelscope://org/name`. The model is the one of its config.json, whose shape takes no options; a tokenizer and a
    template that are not named are its own. Empty: random weights."""


@frozen
class DataOptions:
    """What the core does with the documents of the dataset; the section's other keys are the dataset's own."""

    held_out: float = field(default=0.05, validator=validators.and_(validators.ge(0), validators.lt(1)))
    """Share of the text kept for evaluation: whole documents by their hash, or the end of each when there are few."""
    sequence_length: int | None = field(
        default=None, validator=validators.optional(validators.ge(2)), metadata={"unit": "tokens"}
    )
    """Tokens in a row of a batch. Unset: the context length of the model."""
    packing: Literal["auto", "stream", "best-fit", "none"] = "auto"
    """How documents become rows. "stream" cuts one long sequence of all documents into rows and wastes nothing;
    "best-fit" puts whole documents together, cut only where one is longer than a row; "none" gives each document a row
    of its own, padded. Documents never see each other. "auto" streams plain text and fits chats."""
    loss_on: tuple[str, ...] = field(default=("assistant",), validator=_known_roles)
    """Roles of a chat whose turns are trained on; a message's own flag goes before. Plain text is trained on whole."""
    loss_turns: Literal["all", "last"] = "all"
    """Which turns of those roles: all, or the last one of each chat."""
    max_samples: int | None = field(default=None, validator=optional_whole, metadata={"unit": "documents"})
    """Most documents to read of each source, the first ones, held-out ones among them. Unset: all."""


@frozen
class SourceOptions:
    """What the core takes of a table in `data.sources`; its other keys are those of its dataset."""

    label: str | None = None
    """What the source is called in figures. Unset: the stem of its path, or the name of its dataset."""
    weight: float = field(default=1.0, validator=positive_float)
    """Share of the training rows, relative to the weights of the other sources; each goes through its own epochs."""


@frozen
class GenerateOptions:
    """What is generated at the end of a run, and the defaults of `llmx generate`."""

    prompts: tuple[str, ...] = ()
    """Texts to continue when the run ends. Empty: the beginnings of held-out documents."""
    samples: int = field(default=3, validator=validators.ge(0))
    """How many held-out beginnings to continue when no prompts are given."""
    max_new_tokens: int = field(default=100, validator=positive)
    """Most tokens to add to a prompt."""
    seed: int = field(default=0, validator=validators.ge(0))
    """Seed of the draws; sequence number i of a call is drawn with its own stream."""


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)?")
UNIT_BYTES = {"B": 1, "kB": 10**3} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", 1)
    for ending, base in (("iB", 1024), ("B", 1000))
}


def size_bytes(size: str | int) -> int:
    """Return the bytes of a size: a number of them, or a text such as "7.5GiB", "512MiB" or "8 GB" (of 10^9 bytes).

    Raises:
        ValueError: it is none.
    """
    match = SIZE.fullmatch(str(size).strip())
    found = int(float(match[1]) * UNIT_BYTES[match[2] or "B"]) if match else 0
    if found < 1:
        raise ValueError(f'must be a size, such as "7.5GiB", "512MiB" or a number of bytes: {size!r}')
    return found


def _is_size(_: Any, __: Any, value: str | int | None) -> None:
    if value is not None:
        size_bytes(value)


@frozen
class PlanOptions:
    """What a run may take; `llmx run --dry-run` plans it."""

    memory_limit: str | int | None = field(default=None, validator=_is_size)
    """Most memory of the device: "8GiB", "512MiB" or a number of bytes; of a CPU, all that the process holds. Where the
    plan takes more, a dry run names the first option to change, and a run refuses to start. Unset: not checked."""


@frozen
class PluginsOptions:
    """What must be installed."""

    require: tuple[str, ...] = ()
    """Distributions with versions, as pip takes them: "llmx-lion>=0.2,<1". The run does not start without them."""


CORE_SECTIONS: dict[str, type] = {
    "plugins": PluginsOptions,
    "train": TrainOptions,
    "eval": EvalOptions,
    "checkpoint": CheckpointOptions,
    "generate": GenerateOptions,
    "plan": PlanOptions,
}
