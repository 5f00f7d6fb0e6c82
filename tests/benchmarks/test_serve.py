"""Sixteen clients at once: `llmx serve` beside `transformers serve`, each in turn, over one folder of random weights.

`pytest -m long tests/benchmarks/test_serve.py` with Qwen's tokenizer in ../shared/data, or where LLMX_PEERS says, and
`pip install 'transformers[serving]'`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).resolve()
PEERS = Path(os.environ.get("LLMX_PEERS", HERE.parents[3] / "shared" / "peers"))
TOKENIZER = PEERS.parent / "data" / "qwen-tokenizer" / "tokenizer.json"
CLIENTS, NEW, ROUNDS = 16, 24, 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 0.6B shape with random weights in bf16, Qwen's tokenizer and a template. No token ends an answer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    out = tmp_path_factory.mktemp("serve") / "qwen3-random"
    shape = {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
    with torch.random.fork_rng():
        model = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, max_position_embeddings=1024, dtype="bfloat16"))
    model.to(torch.bfloat16).save_pretrained(out)
    shutil.copy(TOKENIZER, out)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (out / "chat_template.jinja").write_text(TEMPLATE)
    return out


@contextmanager
def served(command: list[str], model: str) -> Iterator[tuple[str, str]]:
    """Run a server until the block is left; give its address and the name of its model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-B", "-m", *command, "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while time.monotonic() < until:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.2)
        yield address, model
    finally:
        process.terminate()
        process.wait(60)


def asked(address: str, model: str, number: int) -> tuple[float, float, int]:
    """Ask once; return the seconds to the first text and to the end, and the pieces of text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me of number {number}, please. " * 6}],
        "max_tokens": NEW,
        "temperature": 0,
        "stream": True,
    }
    start, first, pieces = time.perf_counter(), 0.0, 0
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=600) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:]).get("choices"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                if delta.get("content"):
                    first = first or time.perf_counter() - start
                    pieces += 1
    return first, time.perf_counter() - start, pieces


def load(address: str, model: str, clients: int) -> tuple[float, list[float]]:
    """Return the tokens a second of all clients together, and their seconds to the first text."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda number: asked(address, model, number), range(clients)))
    return clients * NEW / (time.perf_counter() - start), sorted(each[0] for each in found)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not TOKENIZER.exists(), reason="needs the peers' data: set LLMX_PEERS")
def test_sixteen_clients(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At least twice the tokens a second of transformers serve; the time to the first text is printed."""
    pytest.importorskip("fastapi", reason="transformers serve needs it: pip install 'transformers[serving]'")
    peer = ["transformers.cli.transformers", "serve", str(folder), "--dtype", "bfloat16", "--device", "cpu"]
    rates: dict[str, list[float]] = {"llmx": [], "transformers": []}
    firsts: dict[str, list[float]] = {"llmx": [], "transformers": []}
    commands = {"llmx": (["llmx", "serve", str(folder), "--name", "m"], "m"), "transformers": (peer, str(folder))}
    for _ in range(ROUNDS):
        for name, (command, model) in commands.items():
            with served(command, model) as (address, called):
                asked(address, called, 99)
                rate, first = load(address, called, CLIENTS)
            rates[name].append(rate)
            firsts[name] += first
    with capsys.disabled():
        for name, rate in rates.items():
            p50, p99 = statistics.quantiles(firsts[name], n=100)[49::49]
            line = f"{name} serve: {statistics.median(rate):.1f} tokens/s, first text p50 {p50:.2f} s, p99 {p99:.2f} s"
            print(f"\n{line}, of {rate}")  # noqa: T201
    assert statistics.median(rates["llmx"]) >= 2 * statistics.median(rates["transformers"])
