"""Adapter folders in PEFT's form: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from llmx.errors import CheckpointError, RecipeError
from llmx_lora.linear import LoraLinear, SavedModule

if TYPE_CHECKING:
    from torch import Tensor

    from llmx_lora import LoraOptions

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
"""What PEFT writes before the name a tensor has in the model."""

LAYER = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
"""Last parts of the names of a layer's tensors, which are the same here and there."""

READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "modules_to_save", "ensure_weight_tying"}
"""Fields that are kept. Which layers there are is seen from the tensors."""

WITHOUT_EFFECT = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size",
    "runtime_config", "eva_config",
}  # fmt: skip
"""Fields that say nothing of what is computed, beyond which layers."""

PLAIN: dict[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal")}
"""Values of other fields that are fine besides false, empty and unset: other inits change the base's weights."""


@frozen
class Settings:
    """What a LoRA is, whether the recipe or a folder says so."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]

    @classmethod
    def of(cls, options: LoraOptions) -> Settings:
        """Return what a recipe asks for."""
        rank = options.rank or 16
        return cls(
            rank=rank,
            alpha=2.0 * rank if options.alpha is None else options.alpha,
            dropout=options.dropout or 0.0,
            rslora=bool(options.rslora),
            dora=bool(options.dora),
            targets=options.targets or ("hidden",),
            modules_to_save=options.modules_to_save or (),
        )

    @property
    def scale(self) -> float:
        """What the change is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def settings(folder: Path, options: LoraOptions) -> Settings:
    """Return what a folder's config says, with the dropout of the recipe where that gives one.

    Raises:
        CheckpointError: there is none, or it asks for what is not supported.
        RecipeError: the recipe says otherwise.
    """
    config = _config(folder)
    where = folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where}: peft_type = {config.get('peft_type')!r}: only LORA can be read")
    for key, value in config.items():
        if value and key not in READ | WITHOUT_EFFECT and value not in PLAIN.get(key, ()):
            raise CheckpointError(f"{where}: {key} = {value!r}: is not supported")
    try:
        found = Settings(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout") or 0),
            rslora=bool(config.get("use_rslora")),
            dora=bool(config.get("use_dora")),
            targets=(),
            modules_to_save=tuple(config.get("modules_to_save") or ()),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where}: {what}") from None
    for key, value, fits, must in (
        ("r", found.rank, found.rank >= 1, "at least 1"),
        ("lora_alpha", found.alpha, 0 < found.alpha < math.inf, "more than 0"),
        ("lora_dropout", found.dropout, 0 <= found.dropout < 1, "from 0 to less than 1"),
    ):
        if not fits:
            raise CheckpointError(f"{where}: {key} = {value}: must be {must}")
    for name in ("rank", "alpha", "rslora", "dora"):
        given, there = getattr(options, name), getattr(found, name)
        if given is not None and given != there:
            raise RecipeError(f"adapter.lora.{name} = {given}: {where} has {there}: leave it out, or begin anew")
    for name in ("targets", "modules_to_save"):
        if getattr(options, name) is not None:
            raise RecipeError(f"adapter.lora.{name}: {where} says which: leave it out, or begin anew")
    return found if options.dropout is None else evolve(found, dropout=options.dropout)


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {CONFIG}: not an adapter's folder") from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read: {error}") from None


class Weights:
    """The tensors of a folder, by their names in the model.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.tying = bool(_config(folder).get("ensure_weight_tying"))
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.path = folder / WEIGHTS
        if not self.path.exists():
            pickled = (folder / PICKLE).exists()
            what = f"has {PICKLE}, a pickle, which may run code when it is read: save it as" if pickled else "no"
            raise CheckpointError(f"{folder}: {what} {WEIGHTS}")
        try:
            self.tensors = {name.removeprefix(PREFIX): tensor for name, tensor in load_file(self.path).items()}
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: damaged: {error}") from None

    def layers(self, model: Any) -> list[str]:
        """Return the names of the adapted layers.

        Raises:
            CheckpointError: the model has no such linear layer.
        """
        names = [name.removesuffix(".lora_A.weight") for name in self.tensors if name.endswith(".lora_A.weight")]
        for name in names:
            if not hasattr(_module(model, name), "in_features"):
                raise CheckpointError(f"{self.path}: the model has no linear layer {name}: it belongs to another base")
        return names

    def modules(self, model: Any) -> list[str]:
        """Return the names of the modules that are saved whole.

        Raises:
            CheckpointError: the model has no such module, or it is tied and was trained apart.
        """
        for name in model.tied_names:
            self.tensors.pop(name, None)
        roles = model.roles()
        whole = [name for name in self.tensors if not name.endswith(LAYER)]
        if model.tied_names and not self.tying and any(roles.get(name) == "embedding" for name in whole):
            raise CheckpointError(
                f"{self.path}: an embedding was trained apart from the head it is tied to: write it with peft's "
                "ensure_weight_tying"
            )
        names = dict.fromkeys(name.rpartition(".")[0] for name in whole)
        for name in names:
            if _module(model, name) is None:
                raise CheckpointError(f"{self.path}: the model has no module {name}: it belongs to another base")
        return list(names)

    def load(self, model: Any) -> None:
        """Copy the tensors into the adapted model.

        Raises:
            CheckpointError: one is missing, unexpected or of another shape.
        """
        wanted = trained(model)
        for what, names in (
            ("lacks", wanted.keys() - self.tensors),
            ("has the unexpected", self.tensors.keys() - wanted),
        ):
            if names:
                raise CheckpointError(f"{self.path}: {what} {min(names)}: it does not fit its config or the model")
        for name, parameter in wanted.items():
            tensor = self.tensors[name]
            if tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"{self.path}: {name} has shape {list(tensor.shape)}, the model and {CONFIG} ask for "
                    f"{list(parameter.shape)}"
                )
            if not parameter.is_meta:
                parameter.data.copy_(tensor)


def _module(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def trained(model: Any) -> dict[str, Tensor]:
    """Return the parameters of an adapted model that PEFT saves, by PEFT's names without its prefix."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            found |= {f"{name}.{each}": value for each, value in module.named_parameters(recurse=True) if each in LAYER}
        elif isinstance(module, SavedModule):
            found |= {f"{name}.{each}": value for each, value in module.modules_to_save.named_parameters()}
    return found


def _trained_embedding(model: Any) -> bool:
    roles = model.roles()
    return any(roles.get(name) == "embedding" and each.requires_grad for name, each in model.named_parameters())


def save(folder: Path, model: Any, settings: Settings) -> None:
    """Write the folder of an adapted model."""
    from safetensors.torch import save_file

    tensors = {PREFIX + name: value.detach().cpu().contiguous() for name, value in trained(model).items()}
    for name in model.tied_names if _trained_embedding(model) else ():  # peft looks for both
        tensors[PREFIX + name] = model.head_weight().detach().float().cpu().clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(_written(model, settings), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _written(model: Any, settings: Settings) -> Mapping[str, Any]:
    """Return the config of PEFT's LoraConfig."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    saved = [name for name, module in model.named_modules() if isinstance(module, SavedModule)]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "target_modules": _shortened(model, adapted),
        "modules_to_save": saved or None,
        "ensure_weight_tying": bool(model.tied_names) and _trained_embedding(model),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _shortened(model: Any, names: list[str]) -> list[str]:
    """Return the last parts of layers' names where those mean the same layers, else the names."""
    last = {name.rpartition(".")[2] for name in names}
    meant = {
        name
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and name.rpartition(".")[2] in last
    }
    return sorted(last) if meant == set(names) else names
