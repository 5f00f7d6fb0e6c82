"""Model folders in the Hugging Face layout: `config.json`, safetensors, the tokenizer, and `llmx.json`.

`llmx.json` names the components that wrote the folder and the tokenizer's hash; a folder without it comes from
another tool and is read by its `model_type` and its `tokenizer.json`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen

from llmx.component import NoOptions
from llmx.errors import CheckpointError, RecipeError
from llmx.files import fsync, fsync_folder, temporary_beside
from llmx.options import structure, unstructure
from llmx.protocols import Model, Template, Tokenizer
from llmx.recipe import Part
from llmx.registry import Offer, Registry
from llmx.specials import CONFIG, GENERATION, TOKENIZER_CONFIG, read_ends, special_ids
from llmx.weights import INDEX, SHARD_BYTES, WEIGHTS, load_folder, load_weights, read_json, read_weights, write_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "CONFIG",
    "GENERATION",
    "INDEX",
    "LLMX",
    "TOKENIZER_CONFIG",
    "WEIGHTS",
    "Pretrained",
    "empty_model",
    "load",
    "load_model",
    "load_template",
    "load_tokenizer",
    "load_weights",
    "model_offer",
    "read_json",
    "read_weights",
    "replace_folder",
    "require_vocabulary",
    "save",
    "save_tokenizer",
    "tokenizer_files",
    "tokenizer_hash",
]

LLMX = "llmx.json"
GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
"""The class of transformers, 4 and 5, that does what tokenizer.json says. Those of a family add rules of their own, and
the name that transformers 5 writes for it, 4 does not know."""


@frozen
class Pretrained:
    """A model with the tokenizer that trained it."""

    model: Model
    tokenizer: Tokenizer
    template: Template | None = None
    """How its chats were written; None for a model that was trained on plain text."""
    ends: frozenset[int] = frozenset()
    """What ends a text besides, as its folder says."""


# --- writing --------------------------------------------------------------------------------------------------------


def save(
    folder: Path,
    model: Model,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    template: tuple[Part, Template] | None = None,
    *,
    base: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model folder in one step; what stood there stays until the new one is whole.

    Args:
        weights: the model's state dict, without shared tensors.
        template: what its chats are written with, if it has any.
        facts: what `llmx.json` says: the component of each kind, `{"model": "tinyllm", "tokenizer": "char"}`, and more.
        base: the folder that the weights were read from before they were trained, with its own tokenizer: its
            special ids and its generation config are kept.
        shard_bytes: most bytes of tensors in a file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    try:
        save_tokenizer(temporary, tokenizer, facts["tokenizer"], template)
        special, generation = special_ids(temporary, tokenizer, None if template is None else template[1], base)
        dtype = _dtype_name(weights)
        _write_json(temporary / CONFIG, {**model.to_config(), **special, "dtype": dtype, "torch_dtype": dtype})
        _write_json(temporary / GENERATION, generation)
        write_weights(temporary, weights, shard_bytes)
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
    _name_generic(folder)
    facts: dict[str, Any] = {"tokenizer": name}
    if template is not None:
        part, built = template
        built.save(folder)
        facts |= {"template": part.name, "template_options": unstructure(part.options)}
    _write_json(folder / LLMX, {**facts, "tokenizer_sha256": tokenizer_hash(tokenizer_files(folder))})


def _name_generic(folder: Path) -> None:
    """Have a tokenizer.json read by transformers as what it is, by 4 and 5 alike, and never with a folder's code."""
    path = folder / TOKENIZER_CONFIG
    if not path.exists() or not (folder / "tokenizer.json").exists():
        return
    config = read_json(path)
    if config.get("tokenizer_class") != GENERIC_TOKENIZER or "auto_map" in config:
        config.pop("auto_map", None)
        _write_json(path, {**config, "tokenizer_class": GENERIC_TOKENIZER})


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder that can belong to its tokenizer."""
    own = {LLMX, CONFIG, INDEX, GENERATION, "manifest.json"}
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name not in own and p.suffix != ".safetensors")


def tokenizer_hash(files: list[Path]) -> str:
    """Return one SHA-256 over the names and bytes of a tokenizer's files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return the hash of a tokenizer as it is written for any base: equal ones make the same ids of a text."""
    with tempfile.TemporaryDirectory() as scratch:
        save_tokenizer(Path(scratch), tokenizer, "any")
        return tokenizer_hash(tokenizer_files(Path(scratch)))


def _dtype_name(weights: Mapping[str, Tensor]) -> str:
    """Return the type that most numbers have."""
    counts: Counter[str] = Counter()
    for weight in weights.values():
        counts[str(weight.dtype).removeprefix("torch.")] += weight.numel()
    return counts.most_common(1)[0][0]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- reading --------------------------------------------------------------------------------------------------------


def load(folder: Path, registry: Registry, device: str = "cpu") -> Pretrained:
    """Read a model folder.

    Raises:
        CheckpointError: a file is missing or altered, a tensor does not fit, or the tokenizer is not the model's.
    """
    model = empty_model(folder, model_offer(folder, registry))
    tokenizer = load_tokenizer(folder, registry)
    require_vocabulary(folder, tokenizer.vocab_size, model)
    load_folder(model, folder)
    cast("torch.nn.Module", model).to(device).eval()  # in place
    return Pretrained(model, tokenizer, load_template(folder, registry, tokenizer), read_ends(folder))


def load_model(folder: Path, registry: Registry, *, name: str | None = None, dtype: torch.dtype | None = None) -> Model:
    """Read the model of a folder, on the CPU and in evaluation mode; its weights are memory-mapped.

    Args:
        name: the model component; None goes by `llmx.json`, or by the config's `model_type`.
        dtype: type of the weights, converted where they have another; None keeps each as it is stored.

    Raises:
        CheckpointError: a file is missing or altered, a tensor does not fit, or the config is not of that model.
    """
    model = empty_model(folder, model_offer(folder, registry, name))
    load_folder(model, folder, dtype)
    cast("torch.nn.Module", model).eval()
    return model


def empty_model(folder: Path, offer: Offer) -> Model:
    """Build the model of a folder's config on the meta device; raises as `load_model`."""
    import torch

    config = read_json(folder / CONFIG)
    if config.get("auto_map"):
        raise CheckpointError(f"{folder / CONFIG}: auto_map asks for code of the folder, which is never run")
    target = Part(offer.qualified, offer, NoOptions(), folder).load()
    try:
        with torch.device("meta"):
            model: Model = target.from_config(config)
            return model
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (ArithmeticError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise CheckpointError(f"{folder / CONFIG}: {what}") from error


def require_vocabulary(folder: Path, vocab_size: int, model: Model) -> None:
    """Raise a CheckpointError unless every id of a tokenizer has its row in the embedding, which may have more."""
    if vocab_size > model.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {vocab_size} ids, the model's embedding only {model.vocab_size}: "
            "they do not belong together"
        )


def model_offer(folder: Path, registry: Registry, name: str | None = None, where: str = "model.name") -> Offer:
    """Return the component that reads a folder's model: the one that wrote it, or the one for its `model_type`.

    Args:
        name: of the component that is asked for by `where`; None leaves it to the folder.

    Raises:
        CheckpointError: it is no model folder, of another family, or of one that no plugin reads.
    """
    model_type = str(read_json(folder / CONFIG).get("model_type"))
    if name is not None:
        chosen = registry.find("model", name, where)
        handles = chosen.component.handles
        if handles and not any(fnmatch.fnmatch(model_type, each) for each in handles):
            raise CheckpointError(
                f"{folder / CONFIG}: model_type = {model_type!r}: the model {name!r} reads {', '.join(handles)} only: "
                "leave model.name out"
            )
        return chosen
    if (folder / LLMX).exists():
        return registry.find("model", _written(folder, "model"), f"{folder / LLMX}: model")
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
    """Return the template that a model's chats were written with, of another tool's folder the Jinja in it; None for a
    model that was trained on plain text.

    Raises:
        RecipeError: its options are not those of the component.
    """
    from llmx.base import template_values  # which reads folders by means of this module

    if (folder / LLMX).exists() and "template" not in read_json(folder / LLMX):
        return None  # trained on plain text, whatever came with its tokenizer
    values = template_values(folder)
    if not values:
        return None
    offer = registry.find("template", str(values.pop("name")), f"{folder}: template")
    options, faults = structure(offer.component.options, values, "template_options")
    if faults:
        raise RecipeError(*(f"{folder / LLMX}: {fault.path}: {fault.message}" for fault in faults))
    template: Template = Part(offer.qualified, offer, options).build(tokenizer)
    return template
