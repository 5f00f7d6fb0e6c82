"""Texts that tokenizers learn from and texts that they lose, and tokenizers built as a run builds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmx_tokenizers
from llmx.options import structure

COMPONENTS = {each.name: each for each in llmx_tokenizers.llmx_tokenizers()}
TEXTS = [
    *(
        f"The {a} fox is {b} than the {c} dog, and it runs over {n} hills.\n" * 3
        for n, (a, b, c) in enumerate(
            [("quick", "faster", "lazy"), ("brown", "older", "sleepy"), ("small", "wiser", "big")]
        )
    ),
    "    def indented(self):\n        return 1\n" * 5,
    "敏捷的棕色狐狸跳过懒狗。" * 5,
]
HARD = [
    *("", " ", "  a  b ", "\n\n\n", "\t\r\n", "你好，世界", "👩\u200d👩\u200d👧 é e\u0301", "\x00\x01\x7f", "▁ ▁▁x▅"),
    *("\ufeff\ufffd\u2028", "<eos></s><pad><0x41>", "a\u3000b", "\U0010ffff"),
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """English, code and Chinese to learn from."""
    return TEXTS


@pytest.fixture(scope="session")
def hard() -> list[str]:
    """Short texts of all that careless code loses."""
    return HARD


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Build a tokenizer as a run does: structured options, loaded target, texts that come once."""

    def built(name: str, texts: list[str] = TEXTS, **values: Any) -> Any:
        found, faults = structure(COMPONENTS[name].options, values, "tokenizer")
        assert not faults, faults
        return COMPONENTS[name].load().build(found, iter(texts))

    return built


@pytest.fixture(scope="session")
def saved() -> Callable[[Any, Path], dict[str, bytes]]:
    """Save into a new folder, and return what was written."""

    def written(tokenizer: Any, folder: Path) -> dict[str, bytes]:
        folder.mkdir()
        tokenizer.save(folder)
        return {each.name: each.read_bytes() for each in folder.iterdir()}

    return written
