"""What the component's name stands for; transformers is imported when a model is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.errors import CheckpointError, LlmxError, PluginError, RecipeError
from llmx_transformers import TransformersOptions

if TYPE_CHECKING:
    from llmx_transformers.bridged import BridgedModel

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id")


class Build:
    """The component's target: `build(options, vocab_size=V)` and `build.from_config(config)`."""

    def __call__(self, options: TransformersOptions, *, vocab_size: int) -> BridgedModel:
        """Return a model with random weights from torch's global generator.

        Raises:
            RecipeError: there is no such family, or it does not fit.
        """
        wanted: dict[str, Any] = {"model_type": options.model_type}
        if options.config is not None:
            wanted = _read(options.config)
        wanted |= dict.fromkeys(TOKEN_IDS)  # another tokenizer's; a padding id would leave its row untrained
        wanted |= {"vocab_size": vocab_size, **options.fields}
        if wanted["vocab_size"] < vocab_size:
            raise RecipeError(
                f"model.fields.vocab_size = {wanted['vocab_size']}: fewer than the {vocab_size} ids of the tokenizer"
            )
        return _make(wanted, RecipeError, "model.fields" if options.config is None else f"model: {options.config}")

    def from_config(self, config: Mapping[str, Any]) -> BridgedModel:
        """Return the model of a Hugging Face config.

        Raises:
            CheckpointError: transformers has no such family, or it does not fit.
        """
        return _make(dict(config), CheckpointError, "config.json")


build = Build()


def _read(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"model.config = {str(path)!r}: cannot be read: {error}") from None


def _make(values: dict[str, Any], fault: type[LlmxError], where: str) -> BridgedModel:
    try:
        from llmx_transformers.make import make
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        what = f"{where}: model_type = {values.get('model_type')!r}"
        raise PluginError(f"{what}: is read by the package transformers: pip install 'llmx[transformers]'") from error
    return make(values, fault, where)
