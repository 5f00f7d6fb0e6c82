"""How tests of datasets build one, and read one that must fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import llmx_datasets
from llmx.errors import DataError
from llmx.options import structure
from llmx.protocols import Document

COMPONENTS = {each.name: each for each in llmx_datasets.llmx_datasets()}


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Build a dataset as a run does: structured options, loaded target."""

    def built(name: str, **values: Any) -> Any:
        given = values.get("path")
        if given is not None:
            values["path"] = [str(each) for each in given] if isinstance(given, list) else str(given)
        options, faults = structure(COMPONENTS[name].options, values, "data")
        assert not faults
        return COMPONENTS[name].load()(options)

    return built


@pytest.fixture(scope="session")
def fails() -> Callable[..., str]:
    """Read documents, which must end with an error of one line that matches, and return its text."""

    def failed(documents: Iterable[Document] | Callable[[], Any], pattern: str) -> str:
        with pytest.raises(DataError) as caught:
            documents() if callable(documents) else list(documents)
        message = str(caught.value)
        assert re.search(pattern, message), message
        assert "\n" not in message
        return message

    return failed


@pytest.fixture(scope="session")
def write() -> Callable[[Path, str | bytes], Path]:
    """Write text or bytes, with the folders above, and return the path."""

    def written(path: Path, content: str | bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written
