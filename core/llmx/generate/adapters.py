"""Adapters over one base that is held once: each is a form of the model, its frozen weights the base's own tensors."""

from __future__ import annotations

import copy
import itertools
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from llmx import pretrained
from llmx.base import base_facts
from llmx.data.encode import template_hash
from llmx.errors import CheckpointError, RecipeError
from llmx.folder import is_run
from llmx.lock import read_lock
from llmx.named import require_other_than_base
from llmx.options import structure
from llmx.pretrained import Pretrained
from llmx.protocols import Model
from llmx.recipe import Base, Part
from llmx.registry import Registry

if TYPE_CHECKING:
    from llmx.nn.packed import Weights

CONFIG = "adapter_config.json"


def adapted_models(
    base: Pretrained, folder: Path | None, adapters: Mapping[str, str | Path], registry: Registry, device: torch.device
) -> dict[str, Model]:
    """Return a form of the base for each adapter, by name; nothing is merged, and the base stays as it is.

    Args:
        folder: where the base's weights lie; None where they are a run's own, with an adapter of its own.
        adapters: a folder in PEFT's form each, or a run whose `adapter/` is one.

    Raises:
        RecipeError: a name is that of the base, a folder is none, or a plugin for its kind of adapter is not there.
        CheckpointError: the adapter belongs to another model, or was trained with another tokenizer or template.
    """
    for name in adapters:
        require_other_than_base(name)
    return {name: _adapted(name, base, folder, Path(path), registry, device) for name, path in adapters.items()}


def _adapted(
    name: str, base: Pretrained, folder: Path | None, given: Path, registry: Registry, device: torch.device
) -> Model:
    where = f"adapter {name}"
    found = _folder(where, given)
    if is_run(given):
        _require_same_text(where, base, given, registry)
        if folder is not None:
            _tell_of_other_weights(where, given, folder)
    kind = str(pretrained.read_json(found / CONFIG).get("peft_type", "")).lower()
    offer = registry.find("adapter", kind, f"{where}: {found / CONFIG}: peft_type")
    options, faults = structure(offer.component.options, {"pretrained": str(found)}, where)
    if faults:
        raise RecipeError(*(f"{fault.path}: {fault.message}" for fault in faults))
    part = Part(offer.qualified, offer, options)
    try:
        model: Model = part.blame(part.build().apply, sharing_copy(base.model), device)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    module = cast(nn.Module, model).to(device).eval()
    module.requires_grad_(False)
    return model


def _folder(where: str, given: Path) -> Path:
    for found in (given, given / "adapter"):
        if (found / CONFIG).is_file():
            return found
    raise RecipeError(f"{where}: {given}: holds no {CONFIG}: give a run with adapter/, or a folder that PEFT wrote")


def sharing_copy(model: Model) -> Model:
    """Return a copy of a model whose modules may be exchanged, and whose tensors are those of the first."""
    module = cast(nn.Module, model)
    held = itertools.chain.from_iterable(vars(each).values() for each in module.modules())
    tensors = itertools.chain(
        module.parameters(), module.buffers(), (each for each in held if isinstance(each, Tensor))
    )
    return cast(Model, copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}))


def pack_all(
    model: Model, adapted: Mapping[str, Model], weights: Weights | None, device: torch.device, *, compiled: bool = False
) -> None:
    """Pack the weights of a base as `llmx.nn.packed.pack`, in place, once for it and for the forms that share them.

    Raises:
        RecipeError: the device cannot compute with what they are packed as.
    """
    from llmx.nn.packed import pack

    linears = dict(_linears(model))
    if adapted:
        for name, linear in linears.items():
            cast(nn.Module, model).set_submodule(name, Apart(linear))
    names = {id(each.weight): name for name, each in linears.items()}
    head = id(model.head_weight())
    shared = [form for form in adapted.values() if id(form.head_weight()) == head]
    places = [(form, name, names.get(id(each.weight))) for form in adapted.values() for name, each in _linears(form)]
    pack(cast(nn.Module, model), weights, device, compiled=compiled)
    for form, name, base in places:
        if base is not None:
            cast(nn.Module, form).set_submodule(name, cast(nn.Module, model).get_submodule(f"{base}.base_layer"))
    for form in adapted.values():
        pack(cast(nn.Module, form), weights, device, compiled=compiled)
    for form in shared:
        if hasattr(model, "packed_head"):
            form.packed_head = model.packed_head  # type: ignore[attr-defined]  # of a decoder, that `pack` knows


class Apart(nn.Module):
    """A linear layer that is not fused with its neighbours, for an adapter's form of the model has it by itself."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x)
        return y


def _linears(model: Model) -> list[tuple[str, nn.Linear]]:
    """Return the plain linear layers but the head, by their names."""
    named = cast(nn.Module, model).named_modules()
    return [(name, each) for name, each in named if type(each) is nn.Linear and name != "lm_head"]


# --- whether it belongs to the base ---------------------------------------------------------------------------------


def _require_same_text(where: str, base: Pretrained, run: Path, registry: Registry) -> None:
    """Check that a run wrote its texts with the base's tokenizer and template.

    Raises:
        CheckpointError: it did not.
    """
    trained = pretrained.load_tokenizer(run / "tokenizer", registry)
    template = pretrained.load_template(run / "tokenizer", registry, trained)
    other = None
    if template is not None and (base.template is None or template_hash(template) != template_hash(base.template)):
        other = "chat template"
    elif pretrained.tokenizer_digest(trained) != pretrained.tokenizer_digest(base.tokenizer):
        other = "tokenizer"
    if other is not None:
        raise CheckpointError(
            f"{where}: {run}: was trained with another {other} than the base has: "
            f"load the run itself, as in llmx serve {shlex.quote(str(run))}"
        )


def _tell_of_other_weights(where: str, run: Path, folder: Path) -> None:
    then = read_lock(run).get("base")
    if then is not None and then["weights_sha256"] != base_facts(Base(str(folder), folder))["weights_sha256"]:
        sys.stderr.write(f"llmx: {where}: was trained on {then['path']}, whose weights are not those of {folder}\n")
