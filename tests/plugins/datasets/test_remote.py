"""Data that is not a path on this machine: URLs, S3, and the datasets of two hubs through their own clients."""

import contextlib
import gzip
import json
import os
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import llmx_datasets
from llmx.errors import MissingPackageError

COMPONENTS = {each.name: each for each in llmx_datasets.llmx_datasets()}
LINES = b'{"text": "one"}\n{"query": "q", "response": "r"}\n'


def listed(dataset):
    """Return origin and text, or contents, of each document, read twice."""
    found = [(each.origin, each.text or [m.content for m in each.messages]) for each in dataset]
    assert [(each.origin, each.text or [m.content for m in each.messages]) for each in dataset] == found
    return found


@contextlib.contextmanager
def served(answer):
    """Serve what `answer(method, path, query)` returns, a status and bytes; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            address = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
            status, body = answer(urllib.parse.unquote(address.path), query)
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if status == 200 and span:
                status, body = 206, body[int(span[1]) : int(span[2]) + 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Fri, 01 Nov 2024 00:00:00 GMT")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- URLs -----------------------------------------------------------------------------------------------------------


def test_a_file_url_names_files(tmp_path, build, write, fails):
    """A file, a folder and a pattern, `**` too, are found below a URL as below a path; what is not there is said."""
    for name in ("b.jsonl", "a/z.jsonl", "a/.hidden.jsonl", "c.txt"):
        write(tmp_path / name, LINES)
    write(tmp_path / "a/y.jsonl.gz", gzip.compress(LINES))
    base = tmp_path.as_uri()

    def names(path):
        return [each.name.removeprefix(base) for each in build("jsonl", path=path).places]

    assert names(f"{base}/b.jsonl") == ["/b.jsonl"]
    assert names(base) == names(f"{base}/") == ["/a/y.jsonl.gz", "/a/z.jsonl", "/b.jsonl"]
    assert names(f"{base}/*.jsonl") == ["/b.jsonl"]
    assert names(f"{base}/**/[yz].jsonl*") == ["/a/y.jsonl.gz", "/a/z.jsonl"]
    assert names(f"{base}/**/[!a-y].jsonl") == ["/a/z.jsonl"]
    assert listed(build("jsonl", path=f"{base}/a/y.jsonl.gz"))[1] == (f"{base}/a/y.jsonl.gz:2", ["q", "r"])
    fails(lambda: build("jsonl", path=f"{base}/nope"), r"data\.path = 'file://.*/nope': no such file or folder")
    fails(lambda: build("jsonl", path=f"{base}/*.csv"), r"no file matches the pattern; 5 other files are there")
    fails(lambda: build("csv", path=base), r"holds no file in \.csv or \.tsv")


@pytest.mark.parametrize("url", ["ftp://host/a.jsonl", "https://host/*.jsonl", "://x"])
def test_a_url_that_pyarrow_does_not_read_is_said(url, build, fails):
    """The message names the URL and what to do."""
    fails(lambda: build("jsonl", path=url), re.escape(f"data.path = {url!r}: ") + r".*; give a URL that pyarrow reads")


STORE = {
    "data/b.jsonl": LINES,
    "data/a/z.jsonl": LINES,
    "data/a/long.jsonl.gz": gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(100_000))),
}


def bucket(path, query):
    """Answer as S3 does to a listing of `corpus`, and to a request for an object."""
    key = path.removeprefix("/corpus").strip("/")
    if key in STORE:
        return 200, STORE[key]
    if "list-type" not in query:
        return 404, b""
    keys = [key for key in STORE if key.startswith(query.get("prefix", ""))]
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(STORE[key])}</Size>"
        "<LastModified>2024-11-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    head = f"<Name>corpus</Name><KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>"
    return 200, f'<?xml version="1.0"?><ListBucketResult>{head}{entries}</ListBucketResult>'.encode()


def test_files_in_s3_are_found_and_read(build, fails):
    """A pattern and an object are read over the network; the key that opens the store is shown nowhere."""
    with served(bucket) as address:
        ending = f"?endpoint_override={address}&scheme=http&region=us-east-1"
        dataset = build("jsonl", path=f"s3://me:secret@corpus/data/**/?.jsonl{ending}".replace("?.jsonl", "*.jsonl"))
        first = [
            (f"s3://corpus/data/{name}", text) for name in ("a/z.jsonl", "b.jsonl") for text in ("one", ["q", "r"])
        ]
        assert [(origin.rpartition(":")[0], text) for origin, text in listed(dataset)] == first
        packed = build("jsonl", path=f"s3://me:secret@corpus/data/a/long.jsonl.gz{ending}")
        assert [each.text for each in packed] == list(map(str, range(100_000)))
        assert dataset.fingerprint() == build("jsonl", path=dataset.options.path).fingerprint()
        assert dataset.fingerprint() != packed.fingerprint()
        message = fails(
            lambda: build("jsonl", path=f"s3://me:secret@corpus/nope{ending}"), r"'s3://corpus/nope': no such"
        )
        assert "secret" not in message


# --- hubs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _hub_home(tmp_path, monkeypatch):
    """The client's cache is the test's own, and nothing is asked of the network."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.usefixtures("_hub_home")
def test_a_local_folder_is_a_hugging_face_dataset(tmp_path, streaming, build, write):
    """Rows are records; split and place are in the origin; the fingerprint follows the files."""
    folder = tmp_path / "mine"
    write(folder / "train.jsonl", LINES)
    write(folder / "test.jsonl", '{"text": "held"}\n')
    dataset = build("huggingface", path=folder, streaming=streaming)
    assert listed(dataset) == [(f"{folder}:train[0]", "one"), (f"{folder}:train[1]", ["q", "r"])]
    assert listed(build("huggingface", path=folder, split="test")) == [(f"{folder}:test[0]", "held")]
    assert len(listed(build("huggingface", path=folder, limit=1))) == 1
    first = dataset.fingerprint()
    assert build("huggingface", path=folder, streaming=streaming).fingerprint() == first
    os.utime(write(folder / "train.jsonl", LINES.replace(b"one", b"two")), ns=(10**9, 10**9))
    assert build("huggingface", path=folder, streaming=streaming).fingerprint() != first


@pytest.mark.usefixtures("_hub_home")
def test_what_the_hugging_face_client_cannot_do_is_said(tmp_path, build, write, fails):
    """A split, a configuration, a folder and a dataset that is not there, and broken data, are errors of one line."""
    folder = tmp_path / "mine"
    write(folder / "train.jsonl", LINES)
    fails(build("huggingface", path=folder, split="best"), r"data\.path = .*mine': Bad split: best.*check path, config")
    fails(build("huggingface", path=folder, config="de"), r"data\.path = .*mine/de': .*not found")
    fails(build("huggingface", path=tmp_path / "nope"), r"data\.path = .*nope': Couldn't find")
    fails(build("huggingface", path="nobody/nothing"), r"data\.path = 'nobody/nothing': .*; check")
    fails(build("huggingface", path="nobody/nothing").fingerprint, r"data\.path = 'nobody/nothing'")
    write(folder / "train.jsonl", b'{"text": "one"}\n{"text": broken\n')
    fails(build("huggingface", path=folder), r"data\.path = .*mine': JSON parse error")
    write(folder / "train.jsonl", b'{"x": "one"}\n')
    fails(build("huggingface", path=folder), r"mine:train\[0\]: no field is known to hold the text.*: x$")


HUB = {
    "README.md": b"# A dataset",
    "data/b.jsonl": LINES,
    "data/a.csv": b"question,answer\nq,r\n",
    "picture.png": b"\x89PNG",
    "dataset_infos.json": b'{"default": {}}',
}


def hub(path, query):
    """Answer as ModelScope does to a listing of owner/name and to a request for one of its files."""
    if not path.startswith("/api/v1/datasets/owner/name/repo"):
        return 404, b"{}"
    if path.endswith("/tree"):
        files = [{"Path": k, "Name": k, "Type": "blob", "Size": len(v), "Revision": "1"} for k, v in HUB.items()]
        found = {"Code": 200, "Success": True, "Data": {"Files": files, "TotalCount": len(files)}}
        return 200, json.dumps(found).encode()
    return 200, HUB[query["FilePath"]]


def test_a_modelscope_dataset_is_fetched_and_read(tmp_path, monkeypatch, build, fails):
    """Its client fetches the files from a hub; each is read by its ending, those that only describe it are not."""
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    with served(hub) as address:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://{address}")
        dataset = build("modelscope", path="owner/name", prompt_field="question", response_field="answer")
        assert dataset.fingerprint() == dataset.fingerprint()
        assert next(iter(dataset)).messages[-1].content == "r"
        fails(dataset, r"^owner/name/data/b\.jsonl:1: no field 'question'")
        lines = build("modelscope", path="owner/name", files="*.jsonl")
        assert listed(lines) == [("owner/name/data/b.jsonl:1", "one"), ("owner/name/data/b.jsonl:2", ["q", "r"])]
        assert lines.fingerprint() == build("modelscope", path="owner/name", files="*.jsonl").fingerprint()
        assert lines.fingerprint() != dataset.fingerprint()
        fails(build("modelscope", path="owner/none"), r"data\.path = 'owner/none': .*; check path and revision")


@pytest.mark.parametrize(("name", "package"), [("huggingface", "datasets"), ("modelscope", "modelscope")])
def test_a_client_that_is_not_installed_is_named(name, package, monkeypatch):
    """The error says what to install."""
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"llmx_datasets.{name}", raising=False)
    with pytest.raises(MissingPackageError, match=f"pip install {package}"):
        COMPONENTS[name].load()
