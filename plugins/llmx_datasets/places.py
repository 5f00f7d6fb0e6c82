"""Which files a path, a folder, a pattern or a URL names, on this machine or in a store that pyarrow reads."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from attrs import field, frozen
from pyarrow import fs

from llmx.errors import DataError
from llmx_datasets import COMPRESSED

LOCAL = fs.LocalFileSystem()


@frozen
class Place:
    """A file, and where it is.

    Attributes:
        name: what people are shown, and what origins begin with; a URL without its secrets.
        path: its path within `system`.
    """

    name: str
    path: str
    system: fs.FileSystem = field(default=LOCAL, eq=False)

    @property
    def local(self) -> bool:
        return self.system.type_name == "local"

    @property
    def suffix(self) -> str:
        """The last ending, in lower case."""
        return Path(self.path).suffix.lower()


def find_files(given: str | Sequence[str], suffixes: Sequence[str]) -> list[Place]:
    """Return the files that paths, patterns and URLs name: each one's sorted, a file that several name once.

    Raises:
        DataError: one of them names none.
    """
    found: dict[str, Place] = {}
    for pattern in [given] if isinstance(given, str) else given:
        with plain_errors(f"data.path = {shown(pattern)!r}"):
            files = _in_store(pattern, suffixes) if "://" in pattern else _on_disk(pattern, suffixes)
        for place in files:
            name = os.path.abspath(place.path) if place.local else place.name  # noqa: PTH100  # links stay: they are names
            found.setdefault(name, place)
    return list(found.values())


def local(path: Path) -> Place:
    """Return the place of a file on this machine."""
    return Place(str(path), str(path))


def _on_disk(pattern: str, suffixes: Sequence[str]) -> list[Place]:
    path, where = Path(pattern).expanduser(), f"data.path = {pattern!r}"
    if path.is_file():
        return [local(path)]
    if path.is_dir():
        found = [each for each in path.rglob("*") if _wanted(each.relative_to(path).as_posix(), suffixes)]
        missing = f"{where}: the folder holds no file that ends in {_endings(suffixes)}; give a file or a pattern"
    elif glob.has_magic(pattern):
        found = [Path(each) for each in glob.glob(str(path), recursive=True)]  # noqa: PTH207  # Path.glob: no "/a/*"
        missing = f"{where}: no file matches the pattern; it is relative to {Path.cwd()}"
    else:
        found, missing = [], f"{where}: no such file or folder; it is relative to {Path.cwd()}"
    files = sorted(each for each in found if each.is_file())
    if not files:
        raise DataError(missing)
    return [local(each) for each in files]


def _in_store(url: str, suffixes: Sequence[str]) -> list[Place]:
    where = f"data.path = {shown(url)!r}"
    address, _, query = url.partition("?")
    steps = address.split("/")
    fixed = next((number for number, step in enumerate(steps) if glob.has_magic(step)), len(steps))
    base, pattern = "/".join(steps[:fixed]), "/".join(steps[fixed:])
    try:
        system, root = fs.FileSystem.from_uri(base + (f"?{query}" if query else ""))
    except (pa.ArrowException, ImportError) as error:
        reason = str(error).partition("\n")[0].replace(base, shown(base))
        raise DataError(f"{where}: {reason}; give a URL that pyarrow reads, s3://…, or copy the files here") from error
    kind = system.get_file_info(root).type
    if kind == fs.FileType.File and not pattern:
        return [Place(shown(base), root, system)]
    if kind != fs.FileType.Directory:
        raise DataError(f"{where}: no such file or folder; check its name and what you may read")
    inside = [each for each in system.get_file_info(fs.FileSelector(root, recursive=True)) if each.is_file]
    names = {each.path[len(root.rstrip("/")) + 1 :]: each.path for each in inside}
    matches = _wildcard(pattern).fullmatch if pattern else lambda name: _wanted(name, suffixes)
    found = [Place(f"{shown(base).rstrip('/')}/{name}", names[name], system) for name in sorted(names) if matches(name)]
    if not found:
        lack = "no file matches the pattern" if pattern else f"the folder holds no file in {_endings(suffixes)}"
        raise DataError(f"{where}: {lack}; {len(names)} other files are there")
    return found


def _wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not any(step.startswith(".") for step in name.split("/"))


def _endings(suffixes: Sequence[str]) -> str:
    plain = [suffix for suffix in suffixes if not suffix.endswith(COMPRESSED)]
    also = f" (or these with {' or '.join(COMPRESSED)})" if len(plain) < len(suffixes) else ""
    return " or ".join(plain) + also


def _wildcard(pattern: str) -> re.Pattern[str]:
    """Return what a pattern matches of a whole path: `*` stays in a folder, `**/` goes into any below."""
    spelt = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*|\[[^\]]+\])", pattern)
    return re.compile("".join(spelt.get(part) or _plain_or_set(part) for part in parts), re.DOTALL)


def _plain_or_set(part: str) -> str:
    if re.fullmatch(r"\[[^\]]+\]", part):
        inner = re.escape(part[1:-1]).replace(r"\-", "-")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(part)


def shown(url: str) -> str:
    """Return a URL as it may be shown: without the key before `@`, and without its query."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0]) if "://" in url else url


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong while a file is looked for or read into a `DataError` of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{where}: cannot be read: {reason}; check the file") from error
