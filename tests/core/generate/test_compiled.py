"""A compiled step: the same answers, whatever else is asked, and one line where it cannot be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import llmx
from llmx.errors import RecipeError
from llmx.generate.compiled import CompiledStep
from llmx.generate.engine import Engine
from llmx.generate.request import Request
from llmx.nn.packed import pack
from llmx_qwen import Qwen3Options, Qwen25Options
from llmx_qwen.model import Qwen3, Qwen25

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of torch's compiler
]

VOCAB = 97


SHAPE: dict[str, int] = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 64, "context_length": 600}


def small_model(seed: int = 0) -> Qwen3:
    torch.manual_seed(seed)
    return Qwen3(Qwen3Options(**SHAPE, head_dim=8), vocab_size=VOCAB)  # type: ignore[arg-type]


def greedy(model: Any, prompts: list[list[int]], new: int, name: str | None = None) -> list[list[int]]:
    from llmx.generate.chains import Chains
    from llmx.testing.tiny import TinyTokenizer

    engine = Engine(model if isinstance(model, dict) else {"model": model}, None, slots=4)
    chain = Chains(TinyTokenizer()).of([("greedy", {})])
    answers = [engine.submit(Request(ids, chain, max_new_tokens=new, model=name)) for ids in prompts]
    return [[token.id for token in answer.wait().tokens] for answer in answers]


def test_a_compiled_model_says_the_same() -> None:
    """In fp32, token for token, beyond the first buffer's 256 tokens, to the context's end and beside others; two
    models have a graph each."""
    prompts = [[1, 2, 3], [5] * 40, [7, 8]]
    first, second = small_model(0), small_model(1)
    wanted = [greedy(model, [prompt], 597) for model in (first, second) for prompt in prompts]
    assert wanted[0] != wanted[3]
    for model in (first, second):
        pack(model, compiled=True)
        step = CompiledStep(model)
        step.build()
        model.one_token = step  # type: ignore[assignment]
    models = {"first": first, "second": second}
    found = [each for name in models for each in greedy(models, prompts, 597, name)]
    assert found == [each for (each,) in wanted]
    torch._dynamo.reset()


def test_packed_types_are_compiled_too() -> None:
    """bf16, int8 and int4: near to what the packed model says, with biases too; `build` compares them."""
    torch.manual_seed(0)
    biased = Qwen25(Qwen25Options(**SHAPE), vocab_size=VOCAB)  # type: ignore[arg-type]
    assert biased.blocks()[0].self_attn.q_proj.bias is not None
    with torch.no_grad():
        biased.blocks()[0].self_attn.q_proj.bias.normal_()
    cases = [(small_model(), weights) for weights in ("bf16", "int8", "int4")] + [(biased, "bf16")]
    for model, weights in cases:
        pack(model, weights, compiled=True)  # type: ignore[arg-type]
        CompiledStep(model).build()
    torch._dynamo.reset()


def test_where_it_cannot_be_one_line_says_why() -> None:
    """No compiler, another device."""
    from llmx.generate.compiled import compile_steps

    with pytest.raises(RecipeError, match="compile: is for cpu, not for cuda: leave --compile out"):
        compile_steps([small_model()], torch.device("cuda"))
    model = small_model()
    pack(model)
    missing = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    with (
        torch._inductor.config.patch(missing),
        pytest.raises(RecipeError, match=r"compile: torch.compile failed: .+: .+: install a C\+\+ compiler"),
    ):
        CompiledStep(model).build()
    torch._dynamo.reset()


def test_a_run_is_loaded_compiled(small: list[str], tmp_path: Path, llmx_cli: Any) -> None:
    """`llmx.load(compile=True)` and `llmx generate --compile` generate what the run does by itself."""
    run = llmx.run(overrides=small, tokenizer="char", logger=["jsonl"], out=tmp_path / "run")
    plain = llmx.load(run.folder, sampler=["greedy"], weights="stored").generate("The", max_new_tokens=30)
    compiled = llmx.load(run.folder, sampler=["greedy"], compile=True)
    assert compiled.generate("The", max_new_tokens=30) == plain
    few = ["--sampler", "greedy", "--max-new-tokens", "30", "--json", "--compile"]
    done = llmx_cli("generate", run.folder, "The", *few)
    assert json.loads(done.stdout)["text"] == plain
    assert re.fullmatch(r"llmx: compiling the step: about \d+ s, less where it was done before\n", done.stderr)
    torch._dynamo.reset()
