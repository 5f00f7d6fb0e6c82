"""Folders, adapters and rows that no run can begin with: a plain line each, the exit code of its kind, nothing left."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llmx_lora
from llmx.cli import main


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 in shards, with a tokenizer of 260 ids and an embedding of 300, as transformers writes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("base") / "qwen3"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=300, num_key_value_heads=1, head_dim=16, max_position_embeddings=64, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    letters = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run `llmx` in this process; return its exit code and what it wrote to stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        code = ended.value.code
        assert isinstance(code, int)
        return code, capfd.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, before)


# --- what is wrong --------------------------------------------------------------------------------------------------


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def lack_a_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def reshape(folder: Path) -> None:
    path = next(each for each in folder.glob("model-*.safetensors") if "model.norm.weight" in load_file(each))
    save_file({**load_file(path), "model.norm.weight": torch.zeros(7)}, path, metadata={"format": "pt"})


def pickle(folder: Path) -> None:
    weights = {name: each for path in folder.glob("model-*.safetensors") for name, each in load_file(path).items()}
    for path in (*folder.glob("model-*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def other_family(folder: Path) -> None:
    change(folder / "config.json", model_type="mamba")


def code(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})


def enlarge(folder: Path) -> None:
    path = folder / "tokenizer.json"
    added = [{**each, "id": 400 + n} for n, each in enumerate(json.loads(path.read_text())["added_tokens"])]
    change(path, added_tokens=added)
    values = json.loads(path.read_text())
    values["model"]["vocab"] |= {f"extra{number}": 256 + number for number in range(144)}
    path.write_text(json.dumps(values))


def untouched(_: Path) -> None:
    """The folder is fine."""


LORA = ["--adapter", "lora"]
Spoil = Callable[[Path], None]
CASES: list[Any] = [
    pytest.param(lack_a_shard, [], 1, r"lacks the shard model-00002-of-\d+\.safetensors .*fetch it", id="no-shard"),
    pytest.param(reshape, [], 1, r"model\.norm\.weight has shape \[7\], the config says \[32\]", id="shape"),
    pytest.param(pickle, [], 1, r"pytorch_model\.bin is a pickle, which may run code: convert it", id="pickle"),
    pytest.param(other_family, [], 1, r"config\.json: model_type = 'mamba': ", id="family"),
    pytest.param(
        untouched,
        ["--model", "tinyllm"],
        2,
        r"model_type = 'qwen3': the model 'tinyllm' reads .*llama",
        id="other-model",
    ),
    pytest.param(code, [], 1, r"auto_map asks for code of the folder, which is never run", id="code"),
    pytest.param(untouched, [*LORA, "adapter.lora.rank=0"], 2, r"adapter\.lora\.rank.* must be >= 1", id="rank"),
    pytest.param(
        untouched,
        [*LORA, 'adapter.lora.targets=["query"]'],
        2,
        r"adapter\.lora\.targets: 'query': matches no layer; there are .*q_proj",
        id="targets",
    ),
    pytest.param(
        enlarge,
        [],
        1,
        r"the tokenizer has 4\d\d ids, the model's embedding only 300: they do not belong",
        id="tokenizer",
    ),
    pytest.param(
        untouched,
        ["--tokenizer", "bpe", "tokenizer.vocab_size=500"],
        2,
        r"tokenizer\.name = 'bpe': has 500 ids, the embedding of .* only 300: leave the tokenizer out",
        id="other-tokenizer",
    ),
]
SEEN_ONLY_IN_WEIGHTS = {"no-shard", "shape", "pickle"}
"""What a dry run, which reads no weights, does not see."""


@pytest.mark.parametrize(("spoil", "arguments", "code", "message"), CASES)
def test_a_model_that_no_run_can_begin_with(
    spoil: Spoil,
    arguments: list[str],
    code: int,
    message: str,
    qwen: Path,
    corpus: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str]],
    request: pytest.FixtureRequest,
) -> None:
    """One line that says what and where, the exit code of its kind, and no run folder; from `--dry-run` too, where the
    weights are not needed to see it."""
    base = tmp_path / "base"
    shutil.copytree(qwen, base)
    spoil(base)
    given = [f"data.path={corpus}", f"model.pretrained={base}", "data.sequence_length=64", *arguments]
    dry = [] if request.node.callspec.id in SEEN_ONLY_IN_WEIGHTS else [["--dry-run"]]
    for flags in [[], *dry]:
        ended, said = command("run", *given, "--out", str(tmp_path / "run"), *flags)
        assert ended == code, said
        assert re.fullmatch(rf"llmx: .*{message}.*\n", said), said
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_missing_bitsandbytes_names_the_extra(
    name: str,
    qwen: Path,
    corpus: Path,
    tmp_path: Path,
    command: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the package, whose version is llmx's matter."""
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, loaded)
    for ours in ("llmx_lora.bnb", "llmx_lora.quantise"):
        monkeypatch.delitem(sys.modules, ours, raising=False)
    monkeypatch.delattr(llmx_lora, "bnb", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    given = [f"data.path={corpus}", f"model.pretrained={qwen}", "data.sequence_length=64"]
    ended, said = command("run", *given, "--adapter", name, *LORA, "--out", str(tmp_path / "run"))
    assert (ended, said.count("\n")) == (3, 1), said
    assert re.search(rf"adapter '{name}' of llmx: needs the package 'bitsandbytes.*': pip install 'llmx\[quant\]", said)
    assert not (tmp_path / "run").exists()


def test_rows_of_which_none_is_trained_on(qwen: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    """Chats without an assistant would give a loss over nothing."""
    rows = [{"messages": [{"role": "user", "content": f"Question {number}?"}]} for number in range(60)]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = [f"data.path={path}", f"model.pretrained={qwen}", "data.sequence_length=64", "data.held_out=0"]
    ended, said = command("run", *given, "--out", str(tmp_path / "run"))
    assert (ended, said.count("\n")) == (2, 1), said
    assert "data: all 60 training documents: no turn is trained on; compare data.loss_on" in said
    assert not (tmp_path / "run").exists()
