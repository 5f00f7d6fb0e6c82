"""Model folders in the Hugging Face layout: `config.json`, safetensors, the tokenizer, and `llmx.json`.

`llmx.json` names the components that wrote the folder and the tokenizer's hash; a folder without it comes from
another tool and is read by its `model_type` and its `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.errors import CheckpointError, RecipeError
from llmx.files import fsync, fsync_folder, temporary_beside
from llmx.options import structure, unstructure
from llmx.protocols import Model, Template, Tokenizer
from llmx.recipe import Part
from llmx.registry import Offer, Registry

if TYPE_CHECKING:
    from torch import Tensor

LLMX = "llmx.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@frozen
class Pretrained:
    """A model with the tokenizer that trained it."""

    model: Model
    tokenizer: Tokenizer
    template: Template | None = None
    """How its chats were written; None for a model that was trained on plain text."""


# --- writing --------------------------------------------------------------------------------------------------------


def save(
    folder: Path,
    model: Model,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    template: tuple[Part, Template] | None = None,
) -> None:
    """Write a model folder in one step; what stood there stays until the new one is whole.

    Args:
        weights: the model's state dict, without shared tensors.
        template: what its chats are written with, if it has any.
        facts: what `llmx.json` says: the component of each kind, `{"model": "tinyllm", "tokenizer": "char"}`, and more.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        save_tokenizer(temporary, tokenizer, facts["tokenizer"], template)
        special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
        _write_json(temporary / CONFIG, {**model.to_config(), **special, "dtype": _dtype_name(weights)})
        _write_json(temporary / "generation_config.json", special)
        plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(plain, temporary / WEIGHTS, metadata={"format": "pt"})
        _write_json(temporary / LLMX, {**json.loads((temporary / LLMX).read_text()), **facts})
        fsync_folder(temporary)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of another."""
    old = temporary_beside(folder)
    old.rmdir()
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def save_tokenizer(
    folder: Path, tokenizer: Tokenizer, name: str, template: tuple[Part, Template] | None = None
) -> None:
    """Write a tokenizer's files into an existing folder, with the name and the hash that load it back.

    Args:
        template: what the model's chats are written with, if it has any; it is told in `llmx.json` too.
    """
    tokenizer.save(folder)
    facts: dict[str, Any] = {"tokenizer": name}
    if template is not None:
        part, built = template
        built.save(folder)
        facts |= {"template": part.name, "template_options": unstructure(part.options)}
    _write_json(folder / LLMX, {**facts, "tokenizer_sha256": tokenizer_hash(tokenizer_files(folder))})


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder that can belong to its tokenizer."""
    own = {LLMX, CONFIG, INDEX, "generation_config.json", "manifest.json"}
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name not in own and p.suffix != ".safetensors")


def tokenizer_hash(files: list[Path]) -> str:
    """Return one SHA-256 over the names and bytes of a tokenizer's files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _dtype_name(weights: Mapping[str, Tensor]) -> str:
    return str(next(iter(weights.values())).dtype).removeprefix("torch.")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- reading --------------------------------------------------------------------------------------------------------


def load(folder: Path, registry: Registry, device: str = "cpu") -> Pretrained:
    """Read a model folder.

    Raises:
        CheckpointError: a file is missing or altered, a tensor does not fit, or the tokenizer is not the model's.
    """
    import torch

    config = read_json(folder / CONFIG)
    target = _model_offer(folder, config, registry).component.load()
    try:
        with torch.device("meta"):
            model = target.from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{folder / CONFIG}: {what}") from error
    tokenizer = load_tokenizer(folder, registry)
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model's embedding only {model.vocab_size}: "
            "they do not belong together"
        )
    load_weights(model, dict(read_weights(folder)), folder)
    return Pretrained(model.to(device).eval(), tokenizer, load_template(folder, registry, tokenizer))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder.

    Raises:
        CheckpointError: it is missing or does not parse.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no {path.name}: not a model folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def _model_offer(folder: Path, config: Mapping[str, Any], registry: Registry) -> Offer:
    if (folder / LLMX).exists():
        return registry.find("model", _written(folder, "model"), f"{folder / LLMX}: model")
    model_type = str(config.get("model_type"))
    offer = registry.handling("model", model_type)
    if offer is None:
        known = ", ".join(sorted(h for each in registry.offers("model") for h in each.component.handles))
        raise CheckpointError(f"{folder / CONFIG}: model_type = {model_type!r}: no plugin reads it (known: {known})")
    return offer


def _written(folder: Path, key: str) -> str:
    """Return a value of `llmx.json`."""
    values = read_json(folder / LLMX)
    if key not in values:
        raise CheckpointError(f"{folder / LLMX}: lacks {key!r}: it was not written by llmx, or was altered")
    return str(values[key])


def load_tokenizer(folder: Path, registry: Registry) -> Tokenizer:
    """Read the tokenizer of a model folder, or of a run's `tokenizer` folder.

    Raises:
        CheckpointError: its files are not those that were written.
    """
    name, where = "hf", f"{folder}: tokenizer"
    if (folder / LLMX).exists():
        name, where = _written(folder, "tokenizer"), f"{folder / LLMX}: tokenizer"
        if tokenizer_hash(tokenizer_files(folder)) != _written(folder, "tokenizer_sha256"):
            raise CheckpointError(f"{folder}: the tokenizer's files are not those the model was trained with")
    tokenizer: Tokenizer = registry.find("tokenizer", name, where).component.load().load(folder)
    return tokenizer


def load_template(folder: Path, registry: Registry, tokenizer: Tokenizer) -> Template | None:
    """Return the template that a model's chats were written with; None for one that was trained on plain text.

    Raises:
        RecipeError: its options are not those of the component.
    """
    facts = read_json(folder / LLMX) if (folder / LLMX).exists() else {}
    if "template" not in facts:
        return None
    offer = registry.find("template", str(facts["template"]), f"{folder / LLMX}: template")
    options, faults = structure(offer.component.options, facts.get("template_options", {}), "template_options")
    if faults:
        raise RecipeError(*(f"{folder / LLMX}: {fault.path}: {fault.message}" for fault in faults))
    template: Template = Part(offer.qualified, offer, options).build(tokenizer)
    return template


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a folder's safetensors files, memory-mapped.

    Raises:
        CheckpointError: there is none, or one that the index names is missing.
    """
    from safetensors import SafetensorError, safe_open

    names = [WEIGHTS]
    if (folder / INDEX).exists():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    for name in names:
        if not (folder / name).exists():
            raise CheckpointError(f"{folder}: no {name}; weights are read from safetensors only")
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  # not a dict
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"{folder / name}: damaged: {error}") from None


def load_weights(model: Any, weights: dict[str, Tensor], where: Path) -> None:
    """Give a model built on the meta device its weights.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
    """
    kept = model.state_dict().keys()
    wanted = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if n in kept}}
    for name in weights.keys() & set(getattr(model, "tied_names", ())):
        del weights[name]  # some writers store a tied head twice
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        what = f"lacks {missing[0]}" if missing else f"has the unexpected {unexpected[0]}"
        raise CheckpointError(f"{where}: {what} ({len(missing)} missing, {len(unexpected)} unexpected tensors)")
    for name, parameter in wanted.items():
        if parameter.shape != weights[name].shape:
            raise CheckpointError(
                f"{where}: {name} has shape {list(weights[name].shape)}, the config says {list(parameter.shape)}"
            )
    model.load_state_dict(weights, assign=True)
