"""Model folders: memory-mapped reading, shards, special ids, and folders that are not what they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx import CheckpointError, NoOptions, Registry, pretrained
from llmx.options import structure
from llmx.recipe import Part
from llmx.testing.reference import shaken
from llmx.weights import write_weights

IDS = torch.arange(30).view(2, 15)


def named(kind: str, name: str) -> Any:
    return Registry().find(kind, name).component


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A character tokenizer with the special tokens of ChatML."""
    component = named("tokenizer", "char")
    return component.load().build(component.options(special_tokens=("<|im_start|>", "<|im_end|>")), ["abc"])


def model(vocab_size: int = 300, **values: Any) -> Any:
    """A small Qwen3, untied."""
    component = named("model", "qwen3")
    shape = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48, "context_length": 64, "tied": False}
    options, faults = structure(component.options, {**shape, **values}, "model")
    assert not faults
    torch.manual_seed(0)
    return shaken(component.load()(options, vocab_size=vocab_size).eval(), 0)


FACTS = {"model": "qwen3", "tokenizer": "char"}


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    """A model folder in several shards."""
    ours = model()
    pretrained.save(tmp_path / "m", ours, ours.state_dict(), tokenizer, FACTS, shard_bytes=20_000)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 3
    return tmp_path / "m"


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; `...` takes one out."""
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))


# --- memory ---------------------------------------------------------------------------------------------------------

MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from llmx.registry import Registry
from llmx.pretrained import load_model
from llmx.weights import write_weights

def now():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {key: int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "VmRSS", "VmHWM")}

def peak(work):
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
    before, anonymous, done = now(), [0], threading.Event()
    def watch():
        while not done.is_set():
            anonymous[0] = max(anonymous[0], now()["RssAnon"])
            time.sleep(0.0005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    print(max(anonymous[0], now()["RssAnon"]) - before["RssAnon"], now()["VmHWM"] - before["VmRSS"])
    return result

registry = Registry()
registry.find("model", "qwen3").component.load()
torch.zeros(1 << 20).to(torch.bfloat16)  # what the first conversion sets up
folder, out = map(Path, sys.argv[1:])
model = peak(lambda: load_model(folder, registry))
del model
model = peak(lambda: load_model(folder, registry, dtype=torch.float32))
peak(lambda: write_weights(out, model.state_dict(), 2 * 10**7))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_weights(tmp_path: Path) -> None:
    """Read as they are, they take no memory of the process until they are used. Converted, at most 1.1 times the
    result; written in shards, at most one tensor more."""
    big = model(vocab_size=4096, dim=512, layers=10, heads=8, kv_heads=4, mlp_dim=1536, head_dim=64).bfloat16()
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    write_weights(tmp_path / "in", big.state_dict(), 2 * 10**7)
    (tmp_path / "in" / "config.json").write_text(json.dumps(big.to_config()))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    mapped, converted, written = ([int(each) for each in line.split()] for line in done.stdout.splitlines())
    weights = sum(parameter.numel() for parameter in big.parameters()) * 4
    assert weights > 130e6
    assert mapped[0] < 0.05 * weights
    assert 0.9 * weights < converted[0] < 1.1 * weights
    assert converted[1] < 1.1 * weights + 4e6  # with the pages of the source's one tensor that is at hand
    assert written[0] < 0.1 * weights


def test_the_type_of_the_weights_is_chosen(folder: Path) -> None:
    """Unset keeps each tensor's own, set converts what has another; training mapped weights leaves the file alone."""
    before = {path: path.read_bytes() for path in folder.glob("*.safetensors")}
    kept = pretrained.load_model(folder, Registry())
    assert {each.dtype for each in kept.parameters()} == {torch.float32}
    assert not kept.training
    half = pretrained.load_model(folder, Registry(), dtype=torch.bfloat16)
    for (name, found), wanted in zip(half.named_parameters(), kept.parameters(), strict=True):
        assert torch.equal(found, wanted.to(torch.bfloat16)), name
    kept(IDS).square().mean().backward()
    torch.optim.SGD(kept.parameters(), lr=1.0).step()
    assert not torch.equal(kept.head_weight(), pretrained.load_model(folder, Registry()).head_weight())
    assert {path: path.read_bytes() for path in folder.glob("*.safetensors")} == before


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [10**9, 2450, 1])
def test_what_is_written_the_library_reads(tmp_path: Path, shard_bytes: int) -> None:
    """Every type, transposed and empty tensors and scalars, in one file and in shards with an index."""
    from safetensors import safe_open

    weights: dict[str, Tensor] = {
        "half": torch.randn(7, 5).bfloat16(),
        "matrix": torch.randn(20, 30).T,
        "double": torch.randn(3, dtype=torch.float64),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 4),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "count": torch.tensor([2**40]),
        "flag": torch.tensor([True, False]),
    }
    write_weights(tmp_path, weights, shard_bytes)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) == {10**9: 1, 2450: 2, 1: 8}[shard_bytes]
    found: dict[str, Tensor] = {}
    for name in files:
        with safe_open(tmp_path / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name
    if len(files) > 1:
        index = json.loads((tmp_path / pretrained.INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(each.nbytes for each in weights.values())
        assert index["weight_map"].keys() == weights.keys()
        assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert dict(pretrained.read_weights(tmp_path)).keys() == weights.keys()


def test_special_ids_are_the_tokenizer_s(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """In the config and for generation; with a template, what ends an assistant's turn ends a generation too."""
    ours, chatml = model(), named("template", "chatml")
    own = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": 0}
    assert None not in own.values()
    config = json.loads((folder / "config.json").read_text())
    assert own.items() <= config.items()
    assert (config["dtype"], config["torch_dtype"]) == ("float32", "float32")
    assert json.loads((folder / "generation_config.json").read_text()) == own
    part = Part("chatml", Registry().find("template", "chatml"), NoOptions())
    template = (part, chatml.load()(NoOptions(), tokenizer))
    pretrained.save(tmp_path / "chat", ours, ours.state_dict(), tokenizer, FACTS, template)
    ends = json.loads((tmp_path / "chat" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [tokenizer.special_id("<|im_end|>"), tokenizer.eos_id]
    from transformers import AutoTokenizer, GenerationConfig

    assert GenerationConfig.from_pretrained(tmp_path / "chat").eos_token_id == ends
    theirs = AutoTokenizer.from_pretrained(tmp_path / "chat")
    assert type(theirs).__name__ in ("PreTrainedTokenizerFast", "TokenizersBackend")
    text = theirs.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_a_trained_folder_keeps_what_its_base_says_of_generation(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Its special ids and its whole generation config; without a base they are the tokenizer's."""
    change(folder / "config.json", bos_token_id=17, eos_token_id=18)
    chosen = {"eos_token_id": [18, 19], "pad_token_id": 17, "temperature": 0.6, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(chosen))
    ours = pretrained.load_model(folder, Registry())
    pretrained.save(tmp_path / "again", ours, ours.state_dict(), tokenizer, FACTS, base=folder)
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == chosen
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (17, 18, 0)


def test_a_trained_folder_stops_where_its_template_does(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Trained with another template than the base was, a text ends with that one's turns besides."""
    ours, end = pretrained.load_model(folder, Registry()), tokenizer.special_id("<|im_end|>")
    offer = Registry().find("template", "chatml", "test")
    part = Part("chatml", offer, offer.component.options())
    assert end is not None
    for known, ends in ((None, [end]), (18, [end, 18]), ([18, end], [18, end])):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": known, "top_k": 20}))
        named = (part, part.build(tokenizer))
        pretrained.save(tmp_path / "out", ours, ours.state_dict(), tokenizer, FACTS, named, base=folder)
        written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert written == {"eos_token_id": ends, "top_k": 20}


def test_a_tokenizer_is_named_so_that_transformers_4_and_5_load_it(folder: Path, tmp_path: Path) -> None:
    """One that transformers 5 wrote has a class that 4 does not know, and a folder's own code is not named."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "tokenizer_config.json"
    change(path, tokenizer_class="TokenizersBackend", auto_map={"AutoTokenizer": ["x.Y", None]}, own=1)
    read = named("tokenizer", "hf").load().load(tmp_path / "theirs")
    (tmp_path / "out").mkdir()
    pretrained.save_tokenizer(tmp_path / "out", read, "hf")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "auto_map" not in config
    assert config["own"] == 1
    again = pretrained.load_tokenizer(tmp_path / "out", Registry())  # the hash is that of what was written
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("abc") == [2, *again.encode("abc")]


# --- folders that are not what they should be -----------------------------------------------------------------------


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def no_shard(folder: Path) -> None:
    shards(folder)[1].unlink()


def pickle_instead(folder: Path) -> None:
    for path in [*shards(folder), folder / pretrained.INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def adapter_instead(folder: Path) -> None:
    pickle_instead(folder)
    (folder / "adapter_config.json").write_text("{}")


def out_of_the_folder(folder: Path) -> None:
    index = json.loads((folder / pretrained.INDEX).read_text())
    name = next(iter(index["weight_map"]))
    change(folder / pretrained.INDEX, weight_map={**index["weight_map"], name: "../x.safetensors"})


def other_shard(folder: Path) -> None:
    listed = json.loads((folder / pretrained.INDEX).read_text())["weight_map"]
    change(folder / pretrained.INDEX, weight_map=listed | {"model.embed_tokens.weight": shards(folder)[-1].name})


def cut_short(folder: Path) -> None:
    path = shards(folder)[0]
    path.write_bytes(path.read_bytes()[:-8])


def other_shape(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=64)


DAMAGES = [
    (
        no_shard,
        r"lacks the shard model-00002-of-.*\.safetensors that .*index\.json names \(1 of \d+ shards",
    ),
    (pickle_instead, r"no model\.safetensors; .* and pytorch_model\.bin is a pickle, which may run code: convert it"),
    (adapter_instead, r"adapter_config\.json says that this is an adapter, not a model"),
    (lambda folder: (folder / pretrained.INDEX).write_text("[1]"), r"index\.json: cannot be read"),
    (lambda folder: (folder / pretrained.INDEX).write_text("{}"), r"index\.json: damaged: has no weight_map"),
    (out_of_the_folder, r"index\.json: damaged: '\.\./x\.safetensors' is no file of the folder"),
    (other_shard, r"index\.json says that model\.embed_tokens\.weight is in model-.*, which is not so: fetch both"),
    (cut_short, r"model-00001-of-.*\.safetensors: damaged: "),
    (other_shape, r"mlp\.\w+_proj\.weight has shape \[\d+, \d+\], the config says \[\d+, \d+\]"),
    (lambda folder: change(folder / "config.json", num_hidden_layers=3), r"lacks model\.layers\.2\..* \(11 missing, 0"),
    (lambda folder: change(folder / "config.json", num_hidden_layers=1), r"unexpected model\.layers\.1\..*, 11 unexp"),
    (lambda folder: change(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map asks for code"),
    (lambda folder: change(folder / "config.json", vocab_size=-1), r"config\.json: "),
    (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json: cannot be read"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message[:20] for _, message in DAMAGES])
def test_a_damage_is_one_plain_line(folder: Path, damage: Any, message: str) -> None:
    """It names the folder and the file or tensor, and says what to do where something can be done."""
    pretrained.load_model(folder, Registry())
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        pretrained.load_model(folder, Registry())
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path, tokenizer: Any) -> None:
    """With a hash that fits and weights that fit; one that is smaller is normal."""
    assert pretrained.load(folder, Registry()).model.vocab_size == 300 > tokenizer.vocab_size
    small = model(vocab_size=tokenizer.vocab_size - 1)
    with pytest.raises(CheckpointError, match=rf"has {tokenizer.vocab_size} ids, the model's embedding only"):
        pretrained.require_vocabulary(folder, tokenizer.vocab_size, small)


def test_a_tied_head_stored_twice_must_be_one(tmp_path: Path) -> None:
    """Equal copies are one; with another, tools do not agree on which is meant. An untied head must be there."""
    ours = model(tied=True)
    (tmp_path / "config.json").write_text(json.dumps(ours.to_config()))
    weights = ours.state_dict()
    head = weights["model.embed_tokens.weight"].clone()
    write_weights(tmp_path, weights | {"lm_head.weight": head})
    with torch.no_grad():
        assert torch.equal(pretrained.load_model(tmp_path, Registry())(IDS), ours(IDS))
    write_weights(tmp_path, weights | {"lm_head.weight": head + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not model\.embed_tokens\.weight, and the config"):
        pretrained.load_model(tmp_path, Registry())
    write_weights(tmp_path, weights)
    change(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight \(1 missing, 0 unexpected"):
        pretrained.load_model(tmp_path, Registry())
