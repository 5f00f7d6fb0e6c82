"""A model folder as one GGUF file, which llama.cpp and what is built on it read."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import field, frozen

from llmx.errors import CheckpointError, MissingPackageError
from llmx.export.vocabulary import Vocabulary, read_vocabulary
from llmx.export.weights import Rows
from llmx.pretrained import CONFIG, read_json, read_weights

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from torch import Tensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""By their `model_type`, which is what llama.cpp calls them too."""
NEEDED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
)  # fmt: skip
"""Fields of a config that a file cannot do without."""
TYPES = ("f32", "bf16", "f16", "q8_0", "q4_0")
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""What the file says it is made of: llama.cpp's numbers."""
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@frozen
class Entry:
    """A tensor of the file: its name, shape and type there.

    Attributes:
        heads: heads whose rows change places; None for a tensor whose rows stay.
        nbytes: bytes in the file, without what aligns the next one.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    heads: int | None
    nbytes: int


@frozen
class GgufPlan:
    """What a file will hold; nothing is read of the weights but their shapes."""

    folder: Path
    type: str
    config: Mapping[str, Any]
    vocabulary: Vocabulary
    entries: Mapping[str, Entry]
    """By the names in the folder, in the order of its files."""
    notes: list[str] = field(factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights; the tokenizer comes to that."""
        return sum(entry.nbytes for entry in self.entries.values())


def plan_gguf(folder: Path, type_: str | None) -> GgufPlan:
    """Return what a GGUF file of a model folder will hold.

    Args:
        type_: one of `TYPES` for its matrices; None for the type that they are stored in.

    Raises:
        CheckpointError: the model or its tokenizer is of a kind that cannot be said.
        MissingPackageError: the extra is not installed.
    """
    require_gguf()
    config = read_json(folder / CONFIG)
    require_known(folder, config)
    shapes = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in read_weights(folder)}
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)  # some writers store a tied head twice
    if type_ is None:
        stored = shapes["model.embed_tokens.weight"][1] if "model.embed_tokens.weight" in shapes else ""
        type_ = {"torch.bfloat16": "bf16", "torch.float16": "f16"}.get(stored, "f32")
    notes: list[str] = []
    entries = _entries(folder, config, {name: shape for name, (shape, _) in shapes.items()}, type_, notes)
    embedding = next((entry for entry in entries.values() if entry.name == EMBEDDING), None)
    if embedding is None:
        raise CheckpointError(f"{folder}: lacks model.embed_tokens.weight")
    return GgufPlan(folder, type_, config, read_vocabulary(folder, embedding.shape[0]), entries, notes)


def require_gguf() -> None:
    """Check that the package is installed.

    Raises:
        MissingPackageError: it is not.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingPackageError("export to GGUF: needs the extra: pip install 'llmx[gguf]'", "gguf") from None


def require_known(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that llama.cpp computes what a config says.

    Raises:
        CheckpointError: it does not; the message names what.
    """
    where, model_type = folder / CONFIG, config.get("model_type")
    if model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{where}: model_type = {model_type!r}: cannot be written as GGUF here (known: {known})")
    lacking = [key for key in NEEDED if config.get(key) is None]
    if _rope(config)["rope_type"] in ("linear", "yarn") and not _rope(config).get("factor"):
        lacking.append("factor, by which its context is stretched")
    if lacking:
        raise CheckpointError(f"{where}: lacks {lacking[0]}")
    sliding = any("sliding" in kind for kind in config.get("layer_types") or ())
    odd = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": sliding or config.get("use_sliding_window", False),
        "quantization_config": config.get("quantization_config") is not None,
        "attention_bias": model_type == "qwen3" and config.get("attention_bias", False),
        "rope_type": _rope(config)["rope_type"] not in ("default", "linear", "yarn"),
    }
    if any(odd.values()):
        given = {**config, **_rope(config)}
        named = ", ".join(f"{key} = {given.get(key)!r}" for key, found in odd.items() if found)
        raise CheckpointError(f"{where}: cannot be written as GGUF here with {named}")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary options in one spelling: of transformers 5, or 4's `rope_theta` with `rope_scaling`."""
    found = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = found.get("rope_type") or found.get("type") or "default"
    theta = found.get("rope_theta") or config.get("rope_theta") or 10000.0
    return {**found, "rope_theta": theta, "rope_type": kind}


# --- tensors --------------------------------------------------------------------------------------------------------


def _entries(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], type_: str, notes: list[str]
) -> dict[str, Entry]:
    """Return the tensors of the file by their names in the folder.

    Raises:
        CheckpointError: the architecture has no such tensor.
    """
    from gguf import GGML_QUANT_SIZES, MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[config["model_type"].upper()], config["num_hidden_layers"])
    entries: dict[str, Entry] = {}
    for source, shape in shapes.items():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CheckpointError(f"{folder}: {source}: a {config['model_type']} of llama.cpp has no such tensor")
        kind = _type_of(name, shape, type_, tied="lm_head.weight" not in shapes, notes=notes)
        block, bytes_ = GGML_QUANT_SIZES[kind]
        entries[source] = Entry(name, shape, kind, _moved_heads(config, name), math.prod(shape) // block * bytes_)
    return entries


def _type_of(name: str, shape: tuple[int, ...], type_: str, *, tied: bool, notes: list[str]) -> GGMLQuantizationType:
    from gguf import GGML_QUANT_SIZES
    from gguf import GGMLQuantizationType as Kind

    if len(shape) == 1:
        return Kind.F32  # llama.cpp reads norms and biases in no other type
    kind = Kind[type_.upper()]
    if kind is Kind.Q4_0 and name == (EMBEDDING if tied else HEAD):
        kind = Kind.Q8_0  # the logits suffer most from 4 bits; llama.cpp's own tool keeps more for the head too
    block, _ = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        notes.append(f"{name}: rows of {shape[-1]} are no multiple of {block}: stays f16")
        return Kind.F16
    return kind


def _moved_heads(config: Mapping[str, Any], name: str) -> int | None:
    """Return the heads of a projection whose rows change places.

    llama.cpp turns neighbours of a Llama's query and key by an angle, and Hugging Face the halves of a head: the rows
    i and i + half become 2 i and 2 i + 1. Its Qwens are turned in halves.
    """
    if config["model_type"] != "llama":
        return None
    heads: int = config["num_attention_heads"]
    if ".attn_q." in name:
        return heads
    return (config.get("num_key_value_heads") or heads) if ".attn_k." in name else None


def _order(entry: Entry) -> Tensor | None:
    """Return which row of the folder's tensor stands at each place."""
    if entry.heads is None:
        return None
    import torch

    rows = torch.arange(entry.shape[0])
    return rows.view(entry.heads, 2, -1).transpose(1, 2).flatten()


# --- writing --------------------------------------------------------------------------------------------------------


def write_gguf(plan: GgufPlan, path: Path, report: Callable[[int], object]) -> None:
    """Write the file; of the weights a block of rows is in memory at a time.

    Args:
        report: called with the megabytes written so far.

    Raises:
        CheckpointError: a value does not fit the type.
    """
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, plan.config["model_type"])
    try:
        _write_options(writer, plan)
        _write_vocabulary(writer, plan)
        for entry in plan.entries.values():
            writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.nbytes, entry.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for rows in _rows(plan, report):
            writer.write_tensor_data(cast(Any, rows))  # it asks for `nbytes` and `tofile` alone
    finally:
        writer.close()


def _rows(plan: GgufPlan, report: Callable[[int], object]) -> Iterator[Rows]:
    done = 0
    for source, tensor in read_weights(plan.folder):
        entry = plan.entries.get(source)
        if entry is not None:
            yield Rows(f"{plan.folder}: {source}", tensor, entry.type, entry.nbytes, _order(entry))
            done += entry.nbytes
            report(done // 10**6)


def _write_options(writer: GGUFWriter, plan: GgufPlan) -> None:
    config, rope = plan.config, _rope(plan.config)
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(_name(plan.folder))
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_vocab_size(len(plan.vocabulary.tokens))
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    _write_scaling(writer, rope, config["max_position_embeddings"])
    writer.add_file_type(FILE_TYPES[plan.type])
    writer.add_quantization_version(2)


def _name(folder: Path) -> str:
    """Return the name of a model: of the run, where the folder is its `model/`."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def _write_scaling(writer: GGUFWriter, rope: Mapping[str, Any], context_length: int) -> None:
    from gguf import RopeScalingType

    if rope["rope_type"] == "default":
        return
    factor = float(rope["factor"])
    writer.add_rope_scaling_type(RopeScalingType[rope["rope_type"].upper()])
    writer.add_rope_scaling_factor(factor)
    if rope["rope_type"] == "linear":
        return
    writer.add_rope_scaling_orig_ctx_len(rope.get("original_max_position_embeddings") or context_length)
    writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
    writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))
    if rope.get("attention_factor"):  # llama.cpp multiplies what the factor of the paper is already in
        writer.add_rope_scaling_attn_factors(rope["attention_factor"] / (0.1 * math.log(factor) + 1))


def _write_vocabulary(writer: GGUFWriter, plan: GgufPlan) -> None:
    from gguf import SpecialVocab

    logging.getLogger("gguf").addHandler(logging.NullHandler())  # else its remarks go to stderr
    vocabulary = plan.vocabulary
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges or [" "])  # it insists on a list; that pair is never met
    if vocabulary.space_first is not None:
        writer.add_add_space_prefix(vocabulary.space_first)
    special = SpecialVocab(plan.folder, n_vocab=len(vocabulary.tokens))
    if "eos" not in special.special_token_ids:
        raise CheckpointError(
            f"{plan.folder / CONFIG}: no eos_token_id: llama.cpp would end texts at a token of its own"
        )
    special.add_special_token.setdefault("bos", False)  # a "llama" tokenizer would begin with one by itself
    special.add_to_gguf(writer, quiet=True)
