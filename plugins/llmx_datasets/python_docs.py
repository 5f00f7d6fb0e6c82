"""The corpus that every Python brings along: its manual's topics and the docstrings of its standard library.

Nothing is run: modules are parsed, not imported, but for `pydoc_data.topics`, which holds strings.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from llmx.errors import DataError
from llmx.protocols import Document
from llmx_datasets import LimitOptions
from llmx_datasets.files import fingerprint
from llmx_datasets.places import plain_errors

LEAST_BYTES = 100_000
"""Less than this is a Python without its docstrings."""
SKIPPED_FOLDERS = {
    *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3"),
    *("ensurepip", "encodings", "pydoc_data"),
}
LEAST_DOCSTRING = 40
"""Characters; shorter docstrings say little ("See base class.")."""
LEAST_PROSE = 0.8
"""Share of letters and white space below which a paragraph is a table, a grammar or code. Chosen by looking."""


class PythonDocs:
    """Paragraphs of English about Python, each one once: a document is a topic, or a module's docstrings.

    About 1.7 MB in CPython 3.11; other versions differ, so a run is repeated exactly with the same version only.

    Raises:
        DataError: this Python has no docstrings, as some small distributions.
    """

    def __init__(self, options: LimitOptions) -> None:
        self.options = options

    def __iter__(self) -> Iterator[Document]:
        return itertools.islice(all_documents(), self.options.limit)

    def fingerprint(self) -> str:
        """Return a hash over the Python version, the options and the state of the library's files."""
        return fingerprint([type(self).__name__, sys.version, repr(self.options)], library_files())


@functools.cache
def all_documents() -> tuple[Document, ...]:
    """Return all documents: two seconds to find and 2 MB to hold, so they are found once.

    Raises:
        DataError: this Python has no docstrings.
    """
    seen: set[str] = set()
    texts = [*topics(), *((_origin(path), docstrings(path)) for path in library_files())]
    prosaic = [Document(prose(text, seen), origin) for origin, text in texts]
    documents = tuple(each for each in prosaic if each.text)
    if sum(len(each.text.encode()) for each in documents) < LEAST_BYTES:
        raise DataError("data: this Python comes without its docstrings; give a corpus of your own with data.path")
    return documents


def topics() -> list[tuple[str, str]]:
    """Return name and text of the manual's topics, none where this Python lacks them."""
    try:
        found = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:
        return []
    return [(f"python-docs:topic/{name}", text) for name, text in sorted(found.items())]


def library_files() -> list[Path]:
    """Return the standard library's modules, sorted, without tests and other people's packages."""
    found: list[Path] = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = set(folders) - SKIPPED_FOLDERS
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _origin(path: Path) -> str:
    return f"python-docs:{path.relative_to(sysconfig.get_path('stdlib')).as_posix()}"


def docstrings(path: Path) -> str:
    """Return a module's docstrings in the order of its source, with a blank line between two."""
    with plain_errors(str(path)), warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # invalid escapes, up to Python 3.11
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template or another Python's module
            return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = [ast.get_docstring(node) or "" for node in nodes]
    return "\n\n".join(text for text in texts if len(text) >= LEAST_DOCSTRING)


def prose(text: str, seen: set[str]) -> str:
    """Return the paragraphs of a text that are English and not `seen` yet, and note them as seen.

    Topics quote each other, and a paragraph that is both trained on and held out would flatter the model.
    """
    kept = []
    for block in text.split("\n\n"):
        paragraph = block.strip("\n")
        if paragraph.strip() and paragraph not in seen and _is_prose(paragraph):
            seen.add(paragraph)
            kept.append(paragraph)
    return "\n\n".join(kept)


def _is_prose(paragraph: str) -> bool:
    plain = sum(character.isalpha() or character.isspace() for character in paragraph)
    return ">>>" not in paragraph and plain >= LEAST_PROSE * len(paragraph)
