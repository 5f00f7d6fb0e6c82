"""python-docs: English that every Python carries."""

import re
import sys

import pytest

from llmx_datasets import python_docs


def test_python_docs_are_english_of_some_size(build):
    """More than half a megabyte, no paragraph twice, no doctest; the same when read again."""
    dataset = build("python-docs")
    found = [each.text for each in dataset]
    assert [each.text for each in dataset] == found
    paragraphs = "\n\n".join(found).split("\n\n")
    assert sum(map(len, found)) > 500_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert not re.search(r"^>>>", "\n".join(found), re.MULTILINE)
    assert sum(text.count(" the ") for text in found) > 5000
    assert dataset.fingerprint() == build("python-docs").fingerprint() != build("python-docs", limit=1).fingerprint()


@pytest.fixture
def _anew():
    """Nothing is remembered of another Python's library."""
    python_docs.all_documents.cache_clear()
    yield
    python_docs.all_documents.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_python_docs_run_nothing(tmp_path, monkeypatch, build, write):
    """A module is parsed and not imported; tests, other packages and what is no Python are passed over."""
    prose = '"""Words about this module in a sentence of some length."""\n'
    write(
        tmp_path / "a.py", prose + "raise SystemExit\ndef f():\n    'Another sentence of more than forty characters.'"
    )
    write(tmp_path / "test/b.py", prose)
    write(tmp_path / "site-packages/c.py", prose)
    write(tmp_path / "d.py", "this is no Python {{")
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(python_docs, "LEAST_BYTES", 1)
    monkeypatch.setattr(python_docs, "topics", list)
    assert [each.text for each in build("python-docs")] == [
        "Words about this module in a sentence of some length.\n\nAnother sentence of more than forty characters."
    ]


@pytest.mark.usefixtures("_anew")
def test_a_python_without_docstrings_is_an_error(tmp_path, monkeypatch, build, fails):
    """Where there is hardly any text the message asks for data.path."""
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(python_docs, "topics", list)
    fails(build("python-docs"), r"without its docstrings; .*data\.path")


def test_python_docs_do_without_topics(monkeypatch):
    """A Python that lacks `pydoc_data` gives docstrings alone."""
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert python_docs.topics() == []
