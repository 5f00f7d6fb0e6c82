"""Which files a dataset reads, in which order, and when its fingerprint changes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmx_datasets
from llmx.errors import DataError
from llmx.options import describe, structure

COMPONENTS = {each.name: each for each in llmx_datasets.llmx_datasets()}


def texts(dataset):
    """Return the texts of a dataset, read twice to see that they come again."""
    found = [each.text for each in dataset]
    assert [each.text for each in dataset] == found
    return found


def test_importing_the_plugin_imports_nothing_heavy():
    """Names and options of all datasets are read without torch, pyarrow and the hubs' clients."""
    heavy = {"torch", "pyarrow", "datasets", "modelscope", "orjson"}
    code = f"import sys, llmx_datasets as p; print(len(p.llmx_datasets()), {heavy} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["9", "set()"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_explains_its_options(name):
    """No option is without a meaning; all but python-docs ask for a path."""
    assert all(option.meaning for option in describe(COMPONENTS[name].options))
    faults = [each.path for each in structure(COMPONENTS[name].options, {}, "data")[1]]
    assert faults == ([] if name == "python-docs" else ["data.path"])


@pytest.mark.parametrize("path", ["", [], ["a", ""]])
def test_a_path_names_something(path):
    """An empty path, no path and an empty one among others are faults of the recipe."""
    assert [each.path for each in structure(COMPONENTS["jsonl"].options, {"path": path}, "data")[1]] == ["data.path"]


def test_no_two_datasets_read_one_ending():
    """An ending chooses one dataset, compressed or not."""
    handled = [suffix for each in COMPONENTS.values() for suffix in each.handles]
    assert len(set(handled)) == len(handled)
    assert {".jsonl", ".jsonl.gz", ".csv.zst", ".parquet", ".arrow"} <= set(handled)


def test_a_folder_gives_its_files_sorted(tmp_path, build, write):
    """A folder is searched below for the dataset's endings, in any case; hidden and other files are not read."""
    for name in ("b.txt", "a/z.MD", "a.txt", ".git/x.txt", "c.csv"):
        write(tmp_path / name, name)
    assert texts(build("text", path=tmp_path)) == ["a/z.MD", "a.txt", "b.txt"]


def test_a_pattern_gives_its_files_sorted(tmp_path, build, write):
    """`**` reaches into folders; an exact file name wins over its reading as a pattern."""
    for name in ("b.txt", "a/z.txt", "c.csv", "[x].txt"):
        write(tmp_path / name, name)
    assert texts(build("text", path=tmp_path / "**/[ab].txt")) == ["b.txt"]
    assert texts(build("text", path=tmp_path / "**/*.txt")) == ["[x].txt", "a/z.txt", "b.txt"]
    assert texts(build("text", path=tmp_path / "[x].txt")) == ["[x].txt"]


def test_a_list_gives_its_files_in_its_order(tmp_path, monkeypatch, build, write, fails):
    """Files, folders and patterns come as they are listed, a file once however often it is named; none may be empty."""
    for name in ("b.txt", "a/z.txt", "a/y.txt"):
        write(tmp_path / name, name)
    paths = [tmp_path / "b.txt", tmp_path / "a", tmp_path / "**/*.txt"]
    assert texts(build("text", path=paths)) == ["b.txt", "a/y.txt", "a/z.txt"]
    monkeypatch.chdir(tmp_path)
    assert texts(build("text", path=["a/y.txt", tmp_path / "a/y.txt", "a/../a/y.txt", "./a"])) == ["a/y.txt", "a/z.txt"]
    fails(lambda: build("text", path=[tmp_path / "a", tmp_path / "nope/*"]), r"data\.path = .*nope/\*.*no file matches")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, build, write):
    """`~` is expanded as a shell does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "a.txt", "at home")
    assert texts(build("text", path="~/a.txt")) == ["at home"]


def test_a_path_to_nothing_is_an_error(tmp_path, build):
    """A missing file, an empty folder and a pattern without match each say so before anything is read."""
    with pytest.raises(DataError, match=r"data\.path = .*nope.*: no such file or folder"):
        build("text", path=tmp_path / "nope")
    with pytest.raises(
        DataError, match=r"holds no file that ends in \.jsonl or \.ndjson \(or these with \.gz or \.zst\)"
    ):
        build("jsonl", path=tmp_path)
    with pytest.raises(DataError, match=r"no file matches the pattern"):
        build("parquet", path=tmp_path / "*.parquet")


def test_files_without_text_are_an_error(tmp_path, build, write, fails):
    """White space is no document, nor is a chat that says nothing, and a corpus of none is an error."""
    write(tmp_path / "a.txt", " \n\t")
    fails(build("text", path=tmp_path), "hold no text")
    write(tmp_path / "a.jsonl", '{"messages": []}\n{"text": null}\n{"messages": [{"role": "user", "content": " "}]}')
    fails(build("jsonl", path=tmp_path), "hold no text")


def test_limit_takes_the_first_documents(tmp_path, build, write):
    """`limit` counts documents, not lines: blank ones do not count."""
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": " "}\n{"text": "b"}\n{"text": "c"}\n')
    found = [Path(each.origin).name for each in build("jsonl", path=path, limit=2)]
    assert found == ["a.jsonl:1", "a.jsonl:3"]


def test_the_fingerprint_follows_the_files_and_the_options(tmp_path, build, write, fails):
    """It is the same for the same files, and another for another size, time, option or dataset."""
    path = write(tmp_path / "a.txt", "one")
    first = build("text", path=path).fingerprint()
    assert build("text", path=path).fingerprint() == first
    prints = {first, build("text", path=path, limit=1).fingerprint(), build("jsonl", path=path).fingerprint()}
    write(path, "three")
    prints.add(build("text", path=path).fingerprint())
    os.utime(path, ns=(1, 1))
    dataset = build("text", path=path)
    prints.add(dataset.fingerprint())
    assert len(prints) == 5
    path.unlink()
    fails(dataset.fingerprint, r"a\.txt: cannot be read: No such file")


def test_files_of_one_name_size_and_time_are_told_apart(tmp_path, monkeypatch, build, write):
    """In two folders, and where one takes the other's place, as an archive that is unpacked over an older one does."""
    prints = set()
    for folder in ("a", "b"):
        os.utime(write(tmp_path / folder / "x.txt", f"of {folder}"), ns=(1, 1))
        monkeypatch.chdir(tmp_path / folder)
        prints.add(build("text", path="x.txt").fingerprint())
    time.sleep(0.02)  # a file system counts in ticks of some milliseconds
    os.utime(write(Path("x.txt"), "of c"), ns=(1, 1))
    prints.add(build("text", path="x.txt").fingerprint())
    assert len(prints) == 3


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path, build, write, fails):
    """A missing permission is an error of one line."""
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    fails(build("text", path=path), r"a\.txt: cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["text", "jsonl", "json", "csv", "parquet", "arrow"])
def test_a_file_that_vanished_is_named(tmp_path, name, build, write, fails):
    """A file that goes away between building and reading is an error of one line."""
    path = write(tmp_path / "a", "x")
    dataset = build(name, path=path)
    path.unlink()
    fails(dataset, r"/a: cannot be read: No such file")
