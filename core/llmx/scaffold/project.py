"""A new plugin's files: rendered from `templates/`, and put in place all at once."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from pathlib import Path

import jinja2

from llmx.errors import RecipeError
from llmx.hookspecs import API_VERSION
from llmx.scaffold.names import Names

TEMPLATES = Path(__file__).with_name("templates")
COMMON = "common"
SUFFIX = ".tmpl"
"""Ends the name of every template, so that no tool takes one for code. A file that ends otherwise is left out."""


def write_project(names: Names, folder: Path) -> list[Path]:
    """Write the project of a plugin into a new folder, whole or not at all.

    Returns:
        The files, relative to the folder and sorted.

    Raises:
        RecipeError: the folder is there already, or cannot be written.
    """
    where = f"plugins new: {folder}"
    if folder.exists() or folder.is_symlink():
        raise RecipeError(f"{where}: is there already, and nothing is overwritten: move it, or choose another --out")
    if not folder.parent.is_dir():
        raise RecipeError(f"{where}: there is no folder {folder.parent}: make it first")
    files = render(names)
    try:
        # on the same file system, so that the whole project is moved into place at once
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            project = Path(scratch, folder.name)
            for path, text in files.items():
                (project / path).parent.mkdir(parents=True, exist_ok=True)
                (project / path).write_text(text, encoding="utf-8", newline="\n")
            project.rename(folder)
    except OSError as error:
        raise RecipeError(f"{where}: cannot be written: {error.strerror or error}") from error
    return sorted(files)


def render(names: Names) -> dict[Path, str]:
    """Return the text of every file by its path in the project; a template of the kind comes before a common one."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        variable_start_string="<<",  # braces mean something in Python, in TOML and in workflows
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    values = {
        "distribution": names.distribution,
        "package": names.package,
        "part": names.part,
        "module": names.module,
        "Part": names.class_prefix,
        "kind": names.kind,
        "api": API_VERSION,
        "llmx": ".".join(importlib.metadata.version("llmx").split(".")[:2]),
        "tested": _tested(),
    }
    found = {path: folder for folder in (COMMON, names.kind) for path in template_paths(folder)}
    return {
        _project_path(path, names): environment.get_template(f"{folder}/{path}").render(values)
        for path, folder in found.items()
    }


def template_paths(folder: str) -> list[str]:
    """Return the templates of a kind, or the common ones, as paths in their folder."""
    base = TEMPLATES / folder
    return sorted(path.relative_to(base).as_posix() for path in base.rglob(f"*{SUFFIX}"))


def _tested() -> str:
    llmx, torch = importlib.metadata.version("llmx"), importlib.metadata.version("torch")
    return f"llmx {llmx}, Python {platform.python_version()}, torch {torch.partition('+')[0]}"


def _project_path(template: str, names: Names) -> Path:
    return Path(template.removesuffix(SUFFIX).replace("PACKAGE", names.package).replace("PART", names.module))
