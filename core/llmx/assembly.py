"""`assemble(recipe)` is the one place where the parts of a run meet."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import define, evolve, field, frozen

from llmx.corpora import new_corpora, resumed_corpora
from llmx.data.batches import stream_seed
from llmx.data.mixing import MixedRows
from llmx.data.rows import HeldOut, Rows, rows_of
from llmx.data.store import TokenStore
from llmx.errors import RecipeError
from llmx.generate.language_model import LanguageModel
from llmx.generate.prompts import ChatPrompt, prompt_ids, prompts_of
from llmx.lock import read_lock
from llmx.nn import count_weights
from llmx.protocols import Adapter, Model, Objective, Sampler, Schedule, Template, Tokenizer
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.specials import ends_of
from llmx.train.device import choose_device, choose_precision
from llmx.train.hooks import RunHooks, load_hooks_file
from llmx.train.memory import recompute_blocks
from llmx.train.model import build_model, load_saved, saved_weights
from llmx.train.objective import choose_objective
from llmx.train.parallel import World
from llmx.train.rates import group_schedules
from llmx.train.state import TrainState

LEAST_UPDATES = 20
"""Updates that an epoch has at least by the law for their size: with fewer a schedule has nothing to go by."""


@frozen
class Sizes:
    """Numbers of a run that follow from its recipe and its data.

    Attributes:
        sequence_length: tokens of a row.
        rows: rows of an update, over all ranks.
        rank_rows: rows of an update that each rank reads.
        micro_batch: rows of one forward pass.
        steps: updates of the whole run.
    """

    sequence_length: int
    rows: int
    rank_rows: int
    micro_batch: int
    steps: int


@define
class Run:
    """A run with all its parts; what every announcement is given.

    Attributes:
        id: twelve hexadecimal digits that name this run wherever it is recorded, the same when it is resumed.
        folder: the run folder.
        adapters: what changed the model, in order; undone from the last to the first when it is exported.
        world: the ranks of the run.
        template: how chats are written; None where no source holds chats.
        tokens_folders: the token store of each source.
        train_rows: the training rows in their order.
        held_out: the held-out rows, or None when the recipe keeps none.
        schedule: factor on the peak learning rates at each update.
        group_schedules: the same for parameter groups that have one of their own, by the groups' names.
        precision: "fp32", "bf16" or "fp16", as chosen for the device.
        stop_reason: set by `stop`; the run ends after the step at hand.
        ends: ids that end a text, as the run's model folder will have them.
        samples: at the end, pairs of a prompt and how the exported model continues it.
    """

    id: str
    recipe: Recipe
    folder: Path
    registry: Registry
    device: torch.device
    precision: str
    tokenizer: Tokenizer
    template: Template | None
    tokens_folders: list[Path]
    train_rows: Rows
    held_out: HeldOut | None
    sizes: Sizes
    model: Model
    adapters: list[Adapter]
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    chain: list[Sampler]
    world: World
    group_schedules: dict[str, Schedule] = field(factory=dict)
    hooks: RunHooks = field(factory=RunHooks)
    state: TrainState = field(factory=TrainState)
    stop_reason: str | None = None
    ends: frozenset[int] = frozenset()
    samples: list[tuple[str | ChatPrompt, str]] = field(factory=list)

    def stop(self, reason: str) -> None:
        """End the run after the step at hand, as if it were the last one."""
        self.stop_reason = reason

    @property
    def module(self) -> torch.nn.Module:
        """The model as the `nn.Module` that its contract says it is."""
        assert isinstance(self.model, torch.nn.Module)
        return self.model

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint holds of the model: its state dict, or with adapters on a pretrained base, which is
        read again from its folder, only what is trained."""
        return saved_weights(self.recipe, self.model)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy what `weights` returned into the model.

        Raises:
            RuntimeError: they are those of another model.
        """
        load_saved(self.recipe, self.model, weights)

    def generate(self, prompt: str | ChatPrompt, *, max_new_tokens: int | None = None, seed: int | None = None) -> str:
        """Return how the model as it is now continues a prompt, by the recipe's sampler chain and `generate` section.

        Draws from no global generator, so that a run which generates on its way is the run that does not.

        Raises:
            RecipeError: the prompt is empty or fills the context.
        """
        training = self.module.training
        self.module.eval()
        try:
            own = self.model, self.tokenizer, self.chain, self.recipe.generate, self.template
            return LanguageModel(*own, ends=self.ends).generate(prompt, max_new_tokens=max_new_tokens, seed=seed)
        finally:
            self.module.train(training)

    def prompts(self) -> Sequence[str | ChatPrompt]:
        """Return what `generate` is asked for samples: the recipe's prompts, or beginnings of held-out documents."""
        return prompts_of(self)


def assemble(
    recipe: Recipe, registry: Registry, folder: Path, *, resumed: bool = False, world: World | None = None
) -> Run:
    """Build every part a recipe names and put them together. Writes nothing but the cache of prepared data.

    Args:
        resumed: the run folder holds the tokenizer; none is made.
        world: the ranks that train together; None for this process alone.

    Raises:
        RecipeError: an option fits no other, or the data is missing, empty or too short.
        PluginError: a part's code is missing or broken.
    """
    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    world = world or World()
    with world.main_first():
        corpora = resumed_corpora(recipe, registry, folder) if resumed else new_corpora(recipe)
    tokenizer = corpora.tokenizer
    model, adapters = build_model(recipe, registry, tokenizer.vocab_size, device, precision)
    require_one_device(model, device, world)
    recompute_blocks(model, recipe.train.checkpointing)
    length = sequence_length(recipe, model)
    stores = [TokenStore(each, "val") for each in corpora.folders]
    held_out = HeldOut(stores, recipe.data.packing, length) if recipe.data.held_out else None
    train_rows = training_rows(recipe, corpora.folders, length)
    recipe = with_tokens_per_update(recipe, length, train_rows.rows_per_epoch, count_weights(model))  # type: ignore[arg-type]  # it is an nn.Module
    sizes = choose_sizes(recipe, length, train_rows.rows_per_epoch, world.size)
    run = Run(
        id=read_lock(folder).get("id", folder.name) if resumed else world.from_main(uuid.uuid4().hex[:12]),
        recipe=recipe,
        folder=folder,
        registry=registry,
        device=device,
        precision=precision,
        tokenizer=tokenizer,
        template=corpora.template,
        tokens_folders=corpora.folders,
        train_rows=train_rows,
        held_out=held_out,
        sizes=sizes,
        model=model,
        adapters=adapters,
        objective=recipe.objective.build(),
        optimizer=recipe.optimizer.build(model),
        schedule=recipe.scheduler.build(sizes.steps),
        chain=[part.build(tokenizer) for part in recipe.samplers],
        world=world,
        ends=ends_of(recipe, tokenizer, corpora.template),
    )
    run.group_schedules = group_schedules(recipe, run.optimizer, sizes.steps)
    for group in run.optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # the peak, which the schedule scales
    for prompt in recipe.generate.prompts:  # a prompt that does not fit is said now, not after the training
        prompt_ids(prompt, model, tokenizer)
    register_listeners(run)
    run.objective = choose_objective(run)
    # after all is imported and built, for some libraries draw while they are: the run draws the same with any logger
    torch.manual_seed(stream_seed(recipe.train.seed, "train"))
    random.seed(stream_seed(recipe.train.seed, "python"))
    return run


def require_one_device(model: Model, device: torch.device, world: World) -> None:
    """Check that the ranks can sum every gradient: what sums those of an accelerator takes none of the host's.

    Raises:
        RecipeError: the embedding is trained, and stays on the host.
    """
    trained = [each for each in model.parameters() if each.requires_grad]  # type: ignore[attr-defined]
    if world.size > 1 and any(each.device.type != device.type for each in trained):
        raise RecipeError(
            f"train.host_embedding: its gradients on the host cannot be summed over {world.size} ranks: leave it out, "
            "or train on one device"
        )


def training_rows(recipe: Recipe, folders: Sequence[Path], length: int) -> Rows:
    """Return the training rows of all sources, mixed by their weights.

    Raises:
        DataError: a source has no row.
    """
    stores = [TokenStore(folder, "train") for folder in folders]
    rows = [rows_of(store, recipe.data.packing, length, recipe.train.seed) for store in stores]
    if len(rows) == 1:
        return rows[0]
    weighted = [(each, source.weight) for each, source in zip(rows, recipe.sources, strict=True)]
    return MixedRows(weighted, recipe.train.seed)


def sequence_length(recipe: Recipe, model: Model) -> int:
    """Return the tokens of a row.

    Raises:
        RecipeError: the model cannot see that many.
    """
    length = recipe.data.sequence_length or model.context_length
    if length > model.context_length:
        raise RecipeError(
            f"data.sequence_length = {length}: longer than the model's context of {model.context_length} tokens; "
            f"set {length} as model.context_length, or less here"
        )
    return length


def with_tokens_per_update(recipe: Recipe, length: int, rows_per_epoch: int, parameters: int) -> Recipe:
    """Return a recipe in which "auto" tokens of an update are a number, for an epoch of `rows_per_epoch` rows."""
    if recipe.train.tokens_per_update != "auto":
        return recipe
    tokens, _ = auto_tokens_per_update(length, rows_per_epoch, parameters)
    return evolve(recipe, train=evolve(recipe.train, tokens_per_update=tokens))


def auto_tokens_per_update(length: int, rows_per_epoch: int, parameters: int) -> tuple[int, str]:
    """Return the tokens of an update by the law (N * D)^0.4, and the working: whole rows, 20 updates an epoch or more.

    The law and its exponent are those of the recipe for continued pre-training that `learning_rate = "auto"` is of.
    """
    tokens = rows_per_epoch * length
    wanted = (parameters * tokens) ** 0.4
    most = max(1, rows_per_epoch // LEAST_UPDATES)
    rows = min(max(1, round(wanted / length)), most)
    bound = f", at most a {LEAST_UPDATES}th of an epoch" if wanted / length > most else ""
    working = f"({parameters:,} x {tokens:,})^0.4 = {wanted:,.0f} tokens{bound}: {rows:,} rows of {length:,}"
    return rows * length, working


def choose_sizes(recipe: Recipe, length: int, rows_per_epoch: int, ranks: int) -> Sizes:
    """Return the rows and steps of a run.

    Raises:
        RecipeError: an update does not hold whole rows, equal shares of the ranks, or whole micro-batches.
    """
    train = recipe.train
    assert train.tokens_per_update != "auto"
    rows, rest = divmod(train.tokens_per_update, length)
    if rest:
        near = sorted({max(1, rows) * length, (rows + 1) * length})
        raise RecipeError(
            f"train.tokens_per_update = {train.tokens_per_update}: not a multiple of the sequence length {length}; "
            f"nearest: {' or '.join(map(str, near))}"
        )
    rank_rows, rest = divmod(rows, ranks)
    if rest:
        raise RecipeError(f"train.tokens_per_update: its {rows} rows cannot be shared by {ranks} ranks alike")
    micro_batch = min(train.micro_batch or rank_rows, rank_rows)
    if rank_rows % micro_batch:
        raise RecipeError(f"train.micro_batch = {micro_batch}: must divide the {rank_rows} rows of an update")
    steps = train.steps if train.epochs is None else max(1, round(train.epochs * rows_per_epoch / rows))
    return Sizes(length, rows, rank_rows, micro_batch, steps)


def register_listeners(run: Run, loaded: Mapping[str, object] | None = None) -> None:
    """Let loggers (on rank 0), callbacks and hooks files listen: files hear an event first, loggers last.

    Args:
        loaded: hooks files that were imported for this run before, by the names they listened under.
    """
    for part in run.recipe.loggers if run.world.main else ():
        run.hooks.register(_listener(run, part), f"logger {part.name}")
    for part in run.recipe.callbacks:
        run.hooks.register(_listener(run, part), f"callback {part.name}")
    for number, path in enumerate(run.recipe.hooks, 1):  # not by its folder: a project that is moved resumes
        name = f"hooks {number} {Path(path).name}"
        run.hooks.register((loaded or {}).get(name) or load_hooks_file(Path(path)), name)


def _listener(run: Run, part: Any) -> object:
    listener: object = part.build(run)
    return listener
