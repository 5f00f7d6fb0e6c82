"""Writing an export in one step: what stands at OUT stays until the new is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from llmx.errors import RecipeError
from llmx.export.source import TRAINED, model_folder
from llmx.files import fsync, fsync_folder, temporary_beside
from llmx.folder import is_run
from llmx.pretrained import CONFIG, replace_folder

if TYPE_CHECKING:
    from llmx.export.gguf_file import GgufPlan
    from llmx.export.hf_folder import HfPlan

Format = Literal["hf", "gguf", "peft"]
TYPES = {"hf": ("f32", "bf16", "f16"), "gguf": ("f32", "bf16", "f16", "q8_0", "q4_0"), "peft": ()}
"""What weights can be, by format."""
ADAPTER_CONFIG = "adapter_config.json"
Report = Callable[[int], object]


@frozen
class Export:
    """What was written, or would be.

    Attributes:
        files: every file with its bytes; of a GGUF file that is not written yet those of the weights alone.
        notes: what is otherwise than was asked, a line each.
    """

    out: Path
    files: dict[Path, int]
    notes: list[str] = field(factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def export(
    source: Path,
    out: Path,
    *,
    format: Format | None = None,  # noqa: A002  # as the flag is called
    type: str | None = None,  # noqa: A002
    step: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report | None = None,
) -> Export:
    """Write a model for other tools.

    Args:
        source: a run folder, its `model/`, or a Hugging Face folder.
        out: the folder or the file to write.
        format: None is gguf where `out` ends in .gguf, else hf.
        type: of the weights; None leaves them as they are.
        step: "best", "last" or a number: of a run, the weights of that checkpoint.
        force: replace an export that is there.
        dry_run: write nothing.
        report: called with the megabytes written so far.

    Raises:
        RecipeError: an argument is wrong, or `out` is taken.
        CheckpointError: the model is not whole, or cannot be said in that form.
    """
    report = report or _silent
    form = format or ("gguf" if out.suffix == ".gguf" else "hf")
    _check_type(form, type)
    _check_out(source, out, form, force=force)
    if form == "peft":
        return _adapter(source, out, step, dry_run=dry_run)
    beside = next(parent for parent in out.absolute().parents if parent.is_dir())
    with model_folder(source, step, beside) as folder:
        if form == "gguf":
            return _gguf(folder, out, type, report, dry_run=dry_run)
        return _hf(folder, out, type, report, dry_run=dry_run)


def _silent(_: int) -> None:
    """Report nothing."""


def _check_type(form: str, type_: str | None) -> None:
    if type_ is not None and type_ not in TYPES[form]:
        known = ", ".join(TYPES[form]) or "none: an adapter is copied as it is"
        raise RecipeError(f"--type {type_}: is no type of the format {form} (known: {known})")


def _check_out(source: Path, out: Path, form: str, *, force: bool) -> None:
    """Check that `out` may be written.

    Raises:
        RecipeError: something is there that must not be replaced.
    """
    if form == "gguf" and out.suffix != ".gguf":
        raise RecipeError(f"{out}: give the name of a file that ends in .gguf")
    if form != "gguf" and out.suffix == ".gguf":
        raise RecipeError(f"{out}: {form} is a folder: give one, or leave --format out")
    if source.resolve().is_relative_to(out.resolve()):
        raise RecipeError(f"{out}: is what is exported, or holds it: give another place")
    if not out.exists() or (out.is_dir() and form != "gguf" and not any(out.iterdir())):
        return
    ours = out.is_file() if form == "gguf" else any((out / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))
    if not ours or is_run(out) or (out.is_dir() and is_run(out.absolute().parent)):
        raise RecipeError(f"{out}: is there and no export: give another place")
    if not force:
        raise RecipeError(f"{out}: is there: add --force to replace it, or give another place")


def _hf(folder: Path, out: Path, type_: str | None, report: Report, *, dry_run: bool) -> Export:
    from llmx.export.hf_folder import plan_hf, write_hf

    plan: HfPlan = plan_hf(folder, type_)
    if dry_run:
        return Export(out, {out / name: size for name, size in plan.files.items()})
    return _folder(out, lambda temporary: write_hf(plan, temporary, report))


def _gguf(folder: Path, out: Path, type_: str | None, report: Report, *, dry_run: bool) -> Export:
    from llmx.export.gguf_file import plan_gguf, write_gguf

    plan: GgufPlan = plan_gguf(folder, type_)
    if dry_run:
        return Export(out, {out: plan.nbytes}, plan.notes)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(out)
    try:
        write_gguf(plan, temporary / out.name, report)
        fsync(temporary / out.name)
        (temporary / out.name).replace(out)
        fsync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Export(out, {out: out.stat().st_size}, plan.notes)


def _adapter(source: Path, out: Path, step: str | None, *, dry_run: bool) -> Export:
    """Copy the adapter that a run wrote at its end, in the form of PEFT."""
    folder = source / "adapter"
    if not source.is_dir():
        raise RecipeError(f"{source}: no such folder: give a run folder")
    if step is not None:
        raise RecipeError(f"--step {step}: an adapter is exported as the run wrote it at its end: leave it out")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise RecipeError(f"{source}: has no adapter in PEFT's form: that is written at the end of a run with "
                          "adapters that know it, such as lora")  # fmt: skip
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name != TRAINED]
    if dry_run:
        return Export(out, {out / name: (folder / name).stat().st_size for name in names})

    def fill(temporary: Path) -> None:
        for name in names:
            shutil.copyfile(folder / name, temporary / name)

    return _folder(out, fill)


def _folder(out: Path, fill: Callable[[Path], None]) -> Export:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(out)
    try:
        fill(temporary)
        fsync_folder(temporary)
        replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Export(out, {path: path.stat().st_size for path in sorted(out.iterdir())})
