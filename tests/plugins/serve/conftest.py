"""Small chat models, and servers of them in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define

import llmx

NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo"]
SIZES = ["model.preset=nano", "model.context_length=1024", "data.sequence_length=128", "train.tokens_per_update=1024"]


def train(path: Path, out: Path, *more: str, **names: Any) -> Path:
    """Train a small model with the character tokenizer."""
    overrides = [f"data.path={path}", *SIZES, "train.precision=fp32", "optimizer.lr=5e-3", "generate.samples=0", *more]
    llmx.run(overrides=overrides, tokenizer="char", logger=["jsonl"], out=out, **names)
    return out


@pytest.fixture(scope="session")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on short chats in English and Chinese; it answers in their manner."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(200):
            name = NAMES[number % 10]
            turns = [("user", f"Who is {name}?"), ("assistant", f"I am {name}. 我是{name}。")]
            if number % 2:
                turns += [("user", "Sure?"), ("assistant", "Yes, quite sure.")]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return train(path, tmp_path_factory.mktemp("runs") / "chats", "train.steps=150", "data.held_out=0.05")


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on plain text: it has no template."""
    path = tmp_path_factory.mktemp("plain") / "plain.txt"
    path.write_text("Bo is here, and Ada is there. " * 300)
    return train(path, tmp_path_factory.mktemp("runs") / "plain", "train.steps=5")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with random weights as transformers writes it, with a tokenizer and a template without tools."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("published") / "tiny-qwen3"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=300, num_key_value_heads=2, head_dim=16, max_position_embeddings=256, **sizes)
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():  # larger steps between logits: no ties in any precision
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    letters = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = fast.eos_token_id
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@define
class Server:
    """A server that runs.

    Attributes:
        url: its address, without a path.
        log: what it writes to stderr.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **options: Any) -> httpx.Client:
        """Return a plain HTTP client."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def figures(self, **options: Any) -> dict[str, float]:
        """Return the samples of /metrics by name with labels."""
        with self.client(**options) as client:
            lines = client.get("/metrics").raise_for_status().text.splitlines()
        rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    def figure(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        return sum(value for key, value in self.figures().items() if key.partition("{")[0] == name)

    def wait_idle(self, seconds: float = 20) -> None:
        """Wait until no sequence has a slot and none waits."""
        until = time.monotonic() + seconds
        while self.figure("llmx_active_sequences") + self.figure("llmx_waiting_requests"):
            assert time.monotonic() < until, "slots were not freed"
            time.sleep(0.02)

    def end(self) -> int:
        """Tell it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


Serve = Callable[..., Any]


@contextmanager
def serving(log: Path, *arguments: object, **variables: str) -> Iterator[Server]:
    """Run `llmx serve ARGUMENTS` on a free port of loopback until the block is left."""
    command = [sys.executable, "-m", "llmx", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **variables}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    try:
        yield Server(_address(process, log), process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            if line.startswith("llmx serve: ") and " at http://" in line:
                return line.rpartition(" at ")[2]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"it does not start: {log.read_text()}")


@pytest.fixture(scope="session")
def server(chat_run: Path, plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a chat model ("chats") and of one that was trained on plain text ("plain")."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(log, chat_run, "--model", f"plain={plain_run}") as running:
        yield running


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Run `llmx serve ARGUMENTS` on a free port of loopback until a block is left."""
    return lambda *arguments, **variables: serving(tmp_path_factory.mktemp("serve") / "log", *arguments, **variables)


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client of the server."""
    with server.client() as client:
        yield client
