"""The model of a run: built or read, in the type its weights have, adapted, and moved to the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from llmx import pretrained
from llmx.data.batches import stream_seed
from llmx.errors import RecipeError
from llmx.protocols import Adapter, Model
from llmx.recipe import Recipe
from llmx.registry import Registry
from llmx.train.adapt import adapt
from llmx.train.device import DTYPES
from llmx.train.memory import place


def build_model(
    recipe: Recipe, registry: Registry, vocab_size: int, device: torch.device, precision: str
) -> tuple[Model, list[Adapter]]:
    """Return the model to train on its device, with seeded or pretrained weights, and the adapters that are on it.

    Args:
        vocab_size: ids of the tokenizer; a pretrained embedding may have more rows.

    Raises:
        RecipeError: the tokenizer does not fit, or an option about weights does not.
        CheckpointError: the folder is not a whole model.
    """
    dtype = weights_dtype(recipe, precision)
    torch.manual_seed(stream_seed(recipe.train.seed, "weights"))
    if recipe.base is None:
        model = recipe.model.build(vocab_size=vocab_size)
        _cast(model, dtype)
    else:
        model = pretrained.load_model(recipe.base.folder, registry, name=recipe.model.name, dtype=dtype)
        require_fit(recipe, model, vocab_size)
    model, adapters = adapt(recipe, model, device)
    if not any(parameter.requires_grad for parameter in cast(nn.Module, model).parameters()):
        named = ", ".join(part.name for part in recipe.adapters)
        raise RecipeError(f"adapter = {named}: leaves nothing to train: add one that trains, such as lora")
    return finish(recipe, model, device), adapters


def meta_model(recipe: Recipe, vocab_size: int, precision: str = "fp32") -> tuple[Model, list[Adapter]]:
    """Return the model of a recipe without its weights, in the types that these have at a precision, and its adapters.

    Raises:
        RecipeError, CheckpointError: as `build_model`.
    """
    meta = torch.device("meta")
    model = bare_model(recipe, vocab_size)
    _cast(model, weights_dtype(recipe, precision))
    with meta:
        return adapt(recipe, model, meta)


def _cast(model: Model, dtype: torch.dtype) -> None:
    """Change the type of the parameters, in place; buffers such as rotary frequencies keep theirs."""
    for parameter in cast(nn.Module, model).parameters():
        parameter.data = parameter.data.to(dtype)


def bare_model(recipe: Recipe, vocab_size: int) -> Model:
    """Return the model of a recipe without its weights, before adapters.

    Raises:
        RecipeError, CheckpointError: as `build_model`.
    """
    with torch.device("meta"):
        if recipe.base is None:
            model: Model = recipe.model.build(vocab_size=vocab_size)
            return model
    model = pretrained.empty_model(recipe.base.folder, recipe.model.offer)
    require_fit(recipe, model, vocab_size)
    return model


def weights_dtype(recipe: Recipe, precision: str) -> torch.dtype:
    """Return the type of the model's weights, before adapters.

    Raises:
        RecipeError: bf16 was asked for where the products are in another type.
    """
    wanted = recipe.train.weights
    if wanted == "bf16" and precision != "bf16":
        raise RecipeError(
            f'train.weights = "bf16": needs train.precision = "bf16", which is {precision}: set that too, '
            "or leave train.weights out"
        )
    if wanted == "auto":
        return DTYPES[precision] if recipe.adapters else torch.float32
    return DTYPES[wanted]


def require_fit(recipe: Recipe, model: Model, vocab_size: int) -> None:
    """Check that a pretrained embedding has a row for every id.

    Raises:
        RecipeError: it has fewer than a tokenizer that the recipe names has.
        CheckpointError: it has fewer than its own.
    """
    assert recipe.base is not None
    if recipe.tokenizer.folder is not None:
        pretrained.require_vocabulary(recipe.base.folder, vocab_size, model)
    if vocab_size > model.vocab_size:
        raise RecipeError(
            f"tokenizer.name = {recipe.tokenizer.name!r}: has {vocab_size} ids, the embedding of "
            f"{recipe.base.folder} only {model.vocab_size}: leave the tokenizer out to take the model's own"
        )


def finish(recipe: Recipe, model: Model, device: torch.device) -> Model:
    """Bring what is still on the host to the device, what is trained in fp32 unless the recipe has it in bf16.

    Raises:
        RecipeError: an option about memory does not fit the model.
    """
    module = cast(nn.Module, model)
    if recipe.adapters or recipe.train.weights != "bf16":
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                parameter.data = parameter.data.float()
    place(model, device, host_embedding=recipe.train.host_embedding)
    module.train()
    return model


# --- in checkpoints -------------------------------------------------------------------------------------------------


def is_partial(recipe: Recipe) -> bool:
    """Return whether checkpoints hold only what is trained: the rest is read from the base's folder."""
    return recipe.base is not None and bool(recipe.adapters)


def saved_weights(recipe: Recipe, model: Model) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a model."""
    module = cast(nn.Module, model)
    if not is_partial(recipe):
        return module.state_dict()
    return {name: parameter.detach() for name, parameter in _trained(module).items()}


def load_saved(recipe: Recipe, model: Model, weights: Mapping[str, Tensor]) -> None:
    """Copy what a checkpoint holds into a model.

    Raises:
        RuntimeError: it is that of another model.
    """
    module = cast(nn.Module, model)
    if is_partial(recipe):
        wanted = _trained(module).keys()
        wrong = sorted(wanted ^ weights.keys())
        if wrong:
            what = "lacks" if wrong[0] in wanted else "has the unexpected"
            raise RuntimeError(f"it {what} {wrong[0]} ({len(wrong)} such tensors)")
    module.load_state_dict(weights, strict=not is_partial(recipe))


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
