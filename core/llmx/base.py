"""The model folder that a run begins with: found or fetched, what it names, and whether it is the same one later."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmx import pretrained
from llmx.errors import CheckpointError, RecipeError
from llmx.protocols import Tokenizer
from llmx.recipe import Base, Part

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
MODELSCOPE = "modelscope://"
WANTED = ("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt")
"""Files of a hub that are fetched: no pickles and no code. A tokenizer's own are among them."""
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
WHOLE_BYTES, PARTS, PART_BYTES = 2**24, 256, 2**14
"""A file of weights up to the first size is hashed whole, of a larger one its ends and so many parts of that size."""


def find_base(given: str) -> Base:
    """Return the model folder that `model.pretrained` names, fetched if a hub has it.

    Raises:
        RecipeError: there is no such folder and no such model, or it cannot be fetched.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        return Base(str(folder.resolve()), folder.resolve())
    if given.startswith(MODELSCOPE) and HUB_ID.fullmatch(given.removeprefix(MODELSCOPE)):
        return Base(given, _from_modelscope(given.removeprefix(MODELSCOPE)))
    if folder.exists() or given.startswith((".", "/", "~")) or not HUB_ID.fullmatch(given):
        raise RecipeError("no such folder: give a Hugging Face folder, org/name, or modelscope://org/name")
    name, _, revision = given.partition("@")
    found = _from_hub(name, revision or None)
    return Base(f"{name}@{found.name}", found)  # a snapshot lies in a folder named by its commit


def _from_hub(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise RecipeError("no such folder; to fetch a model of that name: pip install 'llmx[hub]'") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"no such folder, and it cannot be fetched from the Hugging Face Hub: {reason}") from error


def _from_modelscope(name: str) -> Path:
    try:
        from modelscope.hub.snapshot_download import snapshot_download  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise RecipeError("needs the extra: pip install 'llmx[modelscope]'") from None
    name, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(WANTED)))
    except Exception as error:  # the client lets the errors of several libraries through
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"cannot be fetched from ModelScope: {reason}") from error


# --- what a folder names --------------------------------------------------------------------------------------------


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the `llmx.json` of a model folder; empty where another tool wrote it."""
    return pretrained.read_json(folder / pretrained.LLMX) if (folder / pretrained.LLMX).exists() else {}


def tokenizer_name(folder: Path) -> str:
    """Return the tokenizer component of a folder: the one that wrote it, or the one that reads tokenizer.json."""
    return str(facts_of(folder).get("tokenizer", "hf"))


def template_values(folder: Path) -> dict[str, Any]:
    """Return the name and the options of the template in a folder; empty where it has none."""
    facts = facts_of(folder)
    if "template" in facts:
        options = dict(facts.get("template_options", {}))
        if "path" in options:  # the file it was read from then is in the folder now
            options["path"] = str(folder)
        return {"name": facts["template"], **options}
    config = folder / "tokenizer_config.json"
    beside = any((folder / name).is_file() for name in CHAT_TEMPLATES)
    if beside or (config.is_file() and pretrained.read_json(config).get("chat_template")):
        return {"name": "llmx:jinja", "path": str(folder)}
    return {}


def read_tokenizer(part: Part) -> Tokenizer:
    """Return the tokenizer in a model folder.

    Raises:
        CheckpointError: its files are not those that the model was trained with.
    """
    assert part.folder is not None
    written = facts_of(part.folder).get("tokenizer_sha256")
    if written is not None and pretrained.tokenizer_hash(pretrained.tokenizer_files(part.folder)) != written:
        raise CheckpointError(f"{part.folder}: the tokenizer's files are not those the model was trained with")
    tokenizer: Tokenizer = part.blame(part.load().load, part.folder)
    return tokenizer


# --- the same later -------------------------------------------------------------------------------------------------


def base_facts(base: Base) -> dict[str, str]:
    """Return what `lock.json` says of the base: where it lies, and hashes of its config and of its weights."""
    config = (base.folder / pretrained.CONFIG).read_bytes()
    weights = hashlib.sha256()
    for path in sorted(base.folder.glob("*.safetensors")):
        size = path.stat().st_size
        weights.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start, length in _parts(size):
                file.seek(start)
                weights.update(file.read(length))
    return {
        "path": str(base.folder),
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "weights_sha256": weights.hexdigest(),
    }


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of what is read of a file of weights; its header stands at its beginning."""
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    yield 0, WHOLE_BYTES // 4
    for number in range(PARTS + 1):
        yield (size - PART_BYTES) * number // PARTS, PART_BYTES


def require_unchanged(run: Path, lock: dict[str, Any], base: Base | None) -> None:
    """Check that a run goes on from the base that it began with.

    Raises:
        CheckpointError: its config or its weights are others now.
    """
    then = lock.get("base")
    if base is None or then is None:
        return
    now = base_facts(base)
    changed = [what for what in ("config", "weights") if then[f"{what}_sha256"] != now[f"{what}_sha256"]]
    if changed:
        raise CheckpointError(
            f"{run}: the {' and the '.join(changed)} of {base.folder} changed since the run began, so it cannot go on: "
            "put the folder back, or start a new run"
        )
