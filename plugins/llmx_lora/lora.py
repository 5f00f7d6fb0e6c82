"""The adapter lora: layers with a change of low rank, and modules that are trained whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmx_lora import peft_folder
from llmx_lora.linear import LoraLinear, SavedModule
from llmx_lora.peft_folder import Settings
from llmx_lora.targets import chosen, chosen_whole, put

if TYPE_CHECKING:
    from llmx_lora import LoraOptions


class Lora:
    """Freezes a model, and trains changes of low rank to its linear layers (Hu et al. 2021)."""

    identity = True

    def __init__(self, options: LoraOptions) -> None:
        self.options = options
        self.folder = None if options.pretrained is None else Path(options.pretrained)
        self.settings = Settings.of(options) if self.folder is None else peft_folder.settings(self.folder, options)
        self.identity = self.folder is None

    def apply(self, model: Any, device: torch.device) -> Any:
        """Return the model to train: only what is added, and what is saved whole, requires gradients.

        Raises:
            RecipeError: targets or modules to save match nothing.
            CheckpointError: the folder to go on from belongs to another model.
        """
        settings = self.settings
        model.requires_grad_(False)
        weights = None if self.folder is None else peft_folder.Weights(self.folder)
        if weights is None:
            whole = chosen_whole(model, settings.modules_to_save)
            names = [name for name in chosen(model, settings.targets) if name not in whole]
        else:
            whole, names = weights.modules(model), weights.layers(model)
        for name in names:
            base = model.get_submodule(name)
            layer = LoraLinear(base, settings.rank, settings.scale, settings.dropout, settings.dora)
            layer.draw(self.options.init)
            put(model, name, layer)
        for name in whole:
            put(model, name, SavedModule(model.get_submodule(name)))
        if weights is not None:
            weights.load(model)
        return model

    def merge(self, model: Any) -> Any:
        """Return the model with plain layers, the changes added to their weights."""
        for name, layer in _added(model):
            put(model, name, layer.merged())
        return model

    def save(self, folder: Path, model: Any) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as peft.PeftModel.from_pretrained reads them."""
        peft_folder.save(folder, model, self.settings)

    def fold(self, model: Any) -> None:
        """Put the changes into the base's weights, in place, for forwards at the base's cost; `unfold` takes them out.

        Packed layers stay as they are: packed again, the change would not come out whole.
        """
        for _, layer in _added(model):
            if isinstance(layer, LoraLinear) and type(layer.base_layer) is torch.nn.Linear:
                layer.fold()

    def unfold(self, model: Any) -> None:
        """Take the changes out of the base's weights again, which are then what they were, to rounding."""
        for _, layer in _added(model):
            if isinstance(layer, LoraLinear):
                layer.unfold()


def _added(model: Any) -> list[tuple[str, LoraLinear | SavedModule]]:
    return [(name, each) for name, each in model.named_modules() if isinstance(each, LoraLinear | SavedModule)]
