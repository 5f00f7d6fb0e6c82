"""Every hook of llmx.

A plugin is a module named by an entry point of group `llmx`; it marks functions of these names with
`@llmx.hookimpl`. There are two families:

* `llmx_<kind>s` *offer* parts. They are called once, when names are resolved, and return `Component` records.
  They must not import torch: a component's target is imported only by a run that names it.
* The others are *announcements* of a run. They are implemented by the loggers and callbacks that a recipe names
  and by the files given with `--hooks`; installing a plugin alone never makes them fire.

Arguments may be added to a hook, never removed; an implementation names only those it uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from llmx.assembly import Run
    from llmx.component import Component
    from llmx.protocols import Objective

API_VERSION = "1.0"
"""Version of this page and of the contracts it names, `MAJOR.MINOR`: a hook or an argument more raises the minor, a
changed contract the major. A plugin module says with `llmx_api = "1.0"` what it was written for; it works with the same
major and any minor that is not older."""

hookspec = pluggy.HookspecMarker("llmx")
hookimpl = pluggy.HookimplMarker("llmx")


# --- what a plugin offers -------------------------------------------------------------------------------------------


@hookspec
def llmx_models() -> Iterable[Component]:
    """Offer models.

    The target is a class, called as `target(options, vocab_size=V)`, an `nn.Module` that keeps the contract of
    `llmx.protocols.Model`. Its class method `from_config(config)` builds one from a Hugging Face `config.json`
    whose `model_type` is in the component's `handles`. It is also built, and its forward run, on the meta device: no
    work that depends on values. Weights are drawn from torch's global generator, which the run has seeded. Nothing
    changes the logits after the head, and blocks are called as modules.
    """
    return ()


@hookspec
def llmx_tokenizers() -> Iterable[Component]:
    """Offer tokenizers.

    The target is a class that keeps the contract of `llmx.protocols.Tokenizer`. `target.build(options, texts)` makes
    a new one, where `texts` iterates over the training documents (never held-out ones) and is read only by a
    tokenizer that learns from them; equal texts give an equal tokenizer. An options class with a field
    `special_tokens: tuple[str, ...]` is given those of the run's chat template. `target.load(folder)` reads what
    `tokenizer.save(folder)` wrote.
    """
    return ()


@hookspec
def llmx_templates() -> Iterable[Component]:
    """Offer chat templates.

    The target is called as `target(options, tokenizer)` and returns a `llmx.protocols.Template`, which writes a list of
    messages as text with the special tokens of a model family. `tokenizer` is None where the template's special tokens
    are asked for before one is learned.
    """
    return ()


@hookspec
def llmx_datasets() -> Iterable[Component]:
    """Offer datasets.

    The target is called as `target(options)` and returns a `llmx.protocols.Dataset`: documents, plain texts or chats,
    that can be iterated again and again in one order, and a fingerprint that changes when they do. It raises
    `llmx.DataError` for a path that does not exist or cannot be read.
    """
    return ()


@hookspec
def llmx_objectives() -> Iterable[Component]:
    """Offer objectives.

    The target is called as `target(options)` and returns a `llmx.protocols.Objective`: `objective(model, batch)` is
    the *sum* of the loss over the batch's counted tokens, a scalar in fp32; the run divides by the count of the
    whole update. It holds no state and is compiled with the model when the recipe says so. An objective that is an
    object may say more of itself, as `llmx.protocols.Objective` tells: that it compares preference pairs
    (`pairs = True`), needs chats (`chats = True`), counts something else than tokens (`count(batch)`), keeps the model
    as it began (`prepare(model)`), or measures further figures (`metrics()`).
    """
    return ()


@hookspec
def llmx_optimizers() -> Iterable[Component]:
    """Offer optimizers.

    The target is called as `target(options, model)` and returns a `torch.optim.Optimizer` over the parameters that
    require gradients. `model.roles()` says which parameter is an embedding, a hidden matrix, a head, a norm or a
    bias. The learning rate of each parameter group at the start is its peak; the scheduler scales it. For
    `--dry-run` it is built on the meta device too, and takes one step there to show the size of its state. A
    parameter whose `grad` is None is skipped, norms and biases do not decay, and `state_dict()` holds tensors, numbers,
    strings, lists and dicts.
    """
    return ()


@hookspec
def llmx_schedulers() -> Iterable[Component]:
    """Offer learning-rate schedules.

    The target is called as `target(options, total_steps)` and returns a pure function of the step:
    `schedule(step) -> float` is the factor on every group's peak rate for update `step`, 0 <= step < total_steps.
    """
    return ()


@hookspec
def llmx_adapters() -> Iterable[Component]:
    """Offer adapters (LoRA, quantisation).

    The target is called as `target(options)` and returns a `llmx.protocols.Adapter`. Its `apply(model, device)` is
    called when the model has its weights, on the CPU, and before it is moved to `device` and the optimizer is built;
    on the meta device too. It returns the model to train; `merge(model)` undoes that for `model/`, with what was learnt
    folded into plain weights. With `save(folder, model)` what was learnt is written by itself too.
    """
    return ()


@hookspec
def llmx_samplers() -> Iterable[Component]:
    """Offer samplers.

    The target is called as `target(options, tokenizer)` and returns a `llmx.protocols.Sampler`, one link of the
    chain that turns logits into the next token.
    """
    return ()


@hookspec
def llmx_loggers() -> Iterable[Component]:
    """Offer loggers.

    The target is called as `target(options, run)` on rank 0 and returns an object that implements announcements
    of this page. A sink that fails after the start costs one warning and never the run; a run may also fail before it
    began. With `state_dict()` and `load_state_dict(state)` it is saved in checkpoints and resumed.
    """
    return ()


@hookspec
def llmx_callbacks() -> Iterable[Component]:
    """Offer callbacks.

    The target is called as `target(options, run)` on every rank and returns an object that implements
    announcements of this page. With `state_dict()` and `load_state_dict(state)` it is saved in checkpoints and
    resumed; every rank gets the state of rank 0.
    """
    return ()


# --- what a run announces -------------------------------------------------------------------------------------------


@hookspec
def llmx_objective(run: Run) -> Objective | None:
    """Give a loss of one's own, `objective(model, batch)` as `llmx_objectives` says, in place of the recipe's.

    Fires once on every rank, when the run is assembled, before the weights of a run that is resumed are loaded; None
    leaves the recipe's, which is `run.objective`. Two listeners that give one are an error. The data was made as the
    recipe's objective reads it: a loss on preference pairs takes the place of one (`dpo`). An exception ends the run.
    """


@hookspec
def llmx_before_run(run: Run) -> None:
    """The run is assembled, and resumed if it is, and no step was taken yet.

    Fires once on every rank (loggers: rank 0). Anything of the run may be changed. An exception ends the run.
    """


@hookspec
def llmx_before_step(run: Run) -> None:
    """Update `run.state.step + 1` begins; its learning rate is set, its batch is not read yet.

    Fires on every rank. The optimizer's groups may be changed. An exception ends the run.
    """


@hookspec
def llmx_before_update(run: Run) -> None:
    """Gradients are complete, unscaled and clipped; the optimizer has not moved.

    Fires on every rank, and only when the loss and the gradient norm are finite. Gradients may be changed, alike on
    every rank. An exception ends the run with the weights of the previous step.
    """


@hookspec
def llmx_after_step(run: Run, metrics: dict[str, float]) -> None:
    """Update `run.state.step` is done.

    Fires on every rank (loggers: rank 0). `metrics` holds step, tokens, epoch, train/loss (nats per counted token),
    lr, grad_norm (before clipping), tokens_per_s, mfu, memory_bytes; what is added to it, later implementations
    see. An exception ends the run.
    """


@hookspec
def llmx_before_eval(run: Run) -> None:
    """An evaluation begins. The weights may be exchanged until `llmx_after_eval`. An exception ends the run."""


@hookspec
def llmx_after_eval(run: Run, metrics: dict[str, float]) -> None:
    """An evaluation ended.

    Fires on every rank (loggers: rank 0). `metrics` holds step, tokens, val/loss (nats per counted token) and
    val/bits_per_byte (not where the objective counts something else than tokens). `run.stop(reason)` may be called. An
    exception ends the run.
    """


@hookspec
def llmx_after_checkpoint(run: Run, path: Path) -> None:
    """The checkpoint folder `path` is complete on disk. Fires on rank 0. An exception ends the run."""


@hookspec
def llmx_before_export(run: Run) -> None:
    """The last step is done, and `model/` is about to be written with the weights of `run.model`.

    Fires on rank 0. The weights may be exchanged until `llmx_after_export`. Where the recipe asks for the best
    weights, those are in the model now, and listeners have their state of that step. An exception ends the run.
    """


@hookspec
def llmx_after_export(run: Run, path: Path) -> None:
    """The model folder `path` is complete on disk. Fires on rank 0. An exception ends the run."""


@hookspec
def llmx_after_run(run: Run) -> None:
    """The last step is done and `model/` is written. Fires once on every rank. An exception is the run's result."""


@hookspec
def llmx_run_failed(run: Run, error: BaseException) -> None:
    """The run ends by `error`: a fault, a divergence or a signal.

    Fires once on every rank that meets it, in place of `llmx_after_run` or after a fault in that. An exception here is
    reported beside `error` and does not replace it, and the other listeners still hear of `error`.
    """
