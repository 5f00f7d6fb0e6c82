"""Decode speed beside transformers and llama.cpp, each in turn in a process of its own, and the memory's roof.

`pytest -m long tests/benchmarks/test_decode.py` with the peers' scripts in ../shared/peers, or where LLMX_PEERS says.
Run as a program it times one of them: `test_decode.py ours|llama SHAPE TYPE [STREAMS] [--compile] [--model PATH]`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve()
PEERS = Path(os.environ.get("LLMX_PEERS", HERE.parents[3] / "shared" / "peers"))
TOKENIZER = PEERS.parent / "data" / "qwen-tokenizer" / "tokenizer.json"
SHAPES = {
    "0.6b": {"preset": "0.6b", "context_length": 512},
    "tiny": {
        "dim": 288,
        "layers": 6,
        "heads": 6,
        "kv_heads": 6,
        "head_dim": 48,
        "mlp_dim": 1024,
        "context_length": 512,
    },
}
IDS = {"0.6b": 151936, "tiny": 4096}
PROMPT, NEW, ROUNDS, THREADS = 32, 48, 3, 2
TYPES = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}

needs_peers = pytest.mark.skipif(not PEERS.exists(), reason="needs the peers' scripts: set LLMX_PEERS")


# --- what is timed, each in a process of its own ---------------------------------------------------------------------


def random_model(shape: str, dtype: Any) -> Any:
    import torch

    from llmx_qwen import Qwen3Options
    from llmx_qwen.model import Qwen3

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return Qwen3(Qwen3Options(**SHAPES[shape], vocab_size=IDS[shape], tied=True), vocab_size=IDS[shape])  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(before)


def time_ours(shape: str, kind: str, streams: int, *, compiled: bool) -> float:
    """Return the tokens a second of all streams together, by the median step of an engine."""
    import torch

    from llmx.generate.chains import Chains
    from llmx.generate.compiled import compile_steps
    from llmx.generate.engine import Engine
    from llmx.generate.request import Request
    from llmx.nn.packed import pack
    from llmx.testing.tiny import TinyTokenizer

    torch.set_num_threads(THREADS)
    model = random_model(shape, torch.float32 if kind == "fp32" else torch.bfloat16)
    pack(model, None if kind == "fp32" else kind, compiled=compiled)  # type: ignore[arg-type]
    if compiled:
        compile_steps([model], torch.device("cpu"))
    engine = Engine({"model": model}, None, slots=streams, prefix_bytes=0)
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(4096, (streams, PROMPT), generator=draw).tolist()
    best = Chains(TinyTokenizer()).of([("greedy", {})])
    answers = [engine.submit(Request(ids, best, max_new_tokens=NEW + streams)) for ids in prompts]
    while not all(answer.tokens for answer in answers):
        engine.step()
    return streams / statistics.median(timed(engine.step) for _ in range(NEW - 2))


def time_llama(path: Path) -> float:
    """Return the tokens a second of llama.cpp by its C functions, by the median step."""
    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.use_extra_bufts = False  # its kernels for AMX end the process on q8_0 and q4_0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 512, THREADS, THREADS
    context = llama_cpp.llama_init_from_model(model, settings)
    ids = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def step(tokens: list[int]) -> int:
        held = (llama_cpp.llama_token * len(tokens))(*tokens)  # a batch does not hold it
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(held, len(tokens))) == 0
        return int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (ids,)).argmax())

    last = [step(list(range(100, 100 + PROMPT)))]

    def next_one() -> None:
        last[0] = step([last[0]])

    return 1 / statistics.median(timed(next_one) for _ in range(NEW))


def timed(step: Any) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


# --- the comparisons --------------------------------------------------------------------------------------------------


def speed(*command: str) -> float:
    """Return the tokens a second that a program prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run([sys.executable, "-B", *command], capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"([\d.]+) tokens/s", done.stdout)
    assert found, done.stdout
    return float(found[1])


def ours(shape: str, kind: str, streams: int = 1, *, compiled: bool = False) -> float:
    return speed(str(HERE), "ours", shape, kind, str(streams), *(["--compile"] if compiled else []))


def transformers(shape: str, dtype: str) -> float:
    return speed(str(PEERS / "hf_generate.py"), shape, dtype)


def roof() -> float:
    """Return the memory's bytes a second, in GB."""
    done = subprocess.run([sys.executable, str(PEERS / "roof.py")], capture_output=True, text=True, check=True)
    return float(re.search(r"memory read: ([\d.]+)", done.stdout)[1])  # type: ignore[index]


@pytest.fixture(scope="session")
def llama_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The 0.6B shape with random weights as llama.cpp reads it, by our types."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llmx.export.write import export

    folder = tmp_path_factory.mktemp("decode")
    shape = {"vocab_size": IDS["0.6b"], "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
    with torch.random.fork_rng():
        model = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, max_position_embeddings=512, dtype="bfloat16"))
    model.to(torch.bfloat16).save_pretrained(folder / "hf")
    shutil.copy(TOKENIZER, folder / "hf")
    (folder / "hf" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}'
    )
    files = {kind: folder / f"{name}.gguf" for kind, name in TYPES.items()}
    for kind, name in TYPES.items():
        export(folder / "hf", files[kind], type=name)
    return files


def report(capsys: pytest.CaptureFixture[str], title: str, rounds: list[dict[str, float]]) -> dict[str, float]:
    """Print and return the medians."""
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    with capsys.disabled():
        print(f"\n{title}: " + ", ".join(f"{name} {value:.1f}" for name, value in medians.items()))  # noqa: T201
    return medians


@pytest.mark.long
@pytest.mark.timeout(3600)
@needs_peers
@pytest.mark.parametrize("kind", TYPES)
def test_one_stream_of_the_06b_shape(
    kind: str, llama_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled: bf16 1.8 of transformers and level with llama.cpp; int8 and int4 0.9 of its q8_0 and q4_0."""
    rounds = []
    for _ in range(ROUNDS):
        row = {"ours": ours("0.6b", kind, compiled=True), "not compiled": ours("0.6b", kind), "llama.cpp": speed(str(HERE), "llama", "0.6b", kind, "1", "--model", str(llama_files[kind]))}  # fmt: skip  # noqa: E501
        if kind == "bf16":
            row["transformers"] = transformers("0.6b", "bfloat16")
        rounds.append({**row, "memory GB/s": roof()})
    found = report(capsys, f"0.6B {kind}, tokens/s", rounds)
    assert found["ours"] >= (0.95 if kind == "bf16" else 0.9) * found["llama.cpp"]
    if kind == "bf16":
        assert found["ours"] >= 1.8 * found["transformers"]


@pytest.mark.long
@pytest.mark.timeout(3600)
@needs_peers
def test_one_stream_of_the_tinyllm_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """At least 3 times transformers, compiled: in each type, and with the weights that are fastest on either side."""
    rounds = []
    for _ in range(ROUNDS):
        row = {
            "transformers fp32": transformers("tiny", "float32"),
            "transformers bf16": transformers("tiny", "bfloat16"),
        }
        for kind in ("fp32", "bf16", "int8", "int4"):
            row |= {kind: ours("tiny", kind), f"{kind} compiled": ours("tiny", kind, compiled=True)}
        rounds.append({**row, "memory GB/s": roof()})
    found = report(capsys, "TinyLLM, tokens/s", rounds)
    theirs = max(found["transformers fp32"], found["transformers bf16"])
    assert max(value for name, value in found.items() if name.endswith("compiled")) >= 3 * theirs
    for kind in ("fp32", "bf16"):
        assert found[f"{kind} compiled"] >= 3 * found[f"transformers {kind}"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_sixteen_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Together at least 4 times one stream."""
    rounds = [{"one": ours("0.6b", "bf16"), "sixteen": ours("0.6b", "bf16", 16)} for _ in range(ROUNDS)]
    found = report(capsys, "0.6B bf16, tokens/s of all streams", rounds)
    assert found["sixteen"] >= 4 * found["one"]


def main() -> None:
    """Time one and print its tokens a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["ours", "llama"])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("kind")
    parser.add_argument("streams", type=int, default=1, nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    if given.what == "llama":
        rate = time_llama(given.model)
    else:
        rate = time_ours(given.shape, given.kind, given.streams, compiled=given.compile)
    print(f"{given.what} {given.shape} {given.kind} x{given.streams}: {rate:.1f} tokens/s")  # noqa: T201


if __name__ == "__main__":
    main()
