"""Generation: the cache changes nothing, a chain draws what it says, and a model folder is read as it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import llmx
from llmx import CheckpointError, Component, RecipeError, Registry
from llmx.generate.text import TextStream, stream_text
from llmx.testing import check_cached_decoding

MODELS = [offer.component for offer in Registry().offers("model")]
OPTIONS: dict[str, dict[str, Any]] = {"transformers": {"model_type": "gpt2", "fields": {"n_layer": 2, "n_embd": 48}}}
"""Of those that have no defaults."""


@pytest.mark.parametrize("component", MODELS, ids=lambda component: component.name)
def test_cached_decoding_gives_the_full_logits(component: Component) -> None:
    """Every model there is: prefill and single tokens give the full forward's logits at every position (1e-5)."""
    torch.manual_seed(0)
    check_cached_decoding(component.load()(component.options(**OPTIONS.get(component.name, {})), vocab_size=300))


def test_the_check_of_cached_decoding_finds_a_fault() -> None:
    """A cache that forgets, and positions that do not go on, are found."""
    from llmx_tinyllm import TinyLLMOptions
    from llmx_tinyllm.model import TinyLLM

    class Forgets(TinyLLM):
        def hidden(self, ids_BT, *, cache=None, **rest):  # type: ignore[no-untyped-def]
            if cache is not None:
                cache.length = 0
            return super().hidden(ids_BT, cache=cache, **rest)

    with pytest.raises(AssertionError, match="cached decoding differs from the full forward"):
        check_cached_decoding(Forgets(TinyLLMOptions(preset="nano"), vocab_size=300))


def test_greedy_text_equals_transformers(char_run: Path) -> None:
    """Greedy continuation is that of `transformers.generate` for the same folder."""
    from transformers import AutoModelForCausalLM

    ours = llmx.load(char_run, sampler=["greedy"])
    theirs = AutoModelForCausalLM.from_pretrained(char_run / "model")
    ids = [ours.tokenizer.bos_id, *ours.tokenizer.encode("The ")]
    out = theirs.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False, pad_token_id=0)[0]
    assert ours.generate("The ", max_new_tokens=30) == ours.tokenizer.decode(out[len(ids) :].tolist())


def test_a_model_folder_loads_in_transformers_with_the_same_logits(char_run: Path) -> None:
    """LlamaForCausalLM, no tensor missing or left over, fp32 logits within 1e-5."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    ours = llmx.load(char_run / "model")
    theirs, info = AutoModelForCausalLM.from_pretrained(char_run / "model", output_loading_info=True)
    assert type(theirs) is LlamaForCausalLM
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.randint(4, ours.tokenizer.vocab_size, (2, 64))
    with torch.no_grad():
        assert (ours.model(ids) - theirs(ids).logits).abs().max() < 1e-5
    text = "The quick (brown) fox:\n  汉字 🙂"
    assert AutoTokenizer.from_pretrained(char_run / "model").encode(text) == [2, *ours.tokenizer.encode(text)]


def test_a_hugging_face_folder_of_another_tool_loads(char_run: Path, tmp_path: Path) -> None:
    """What transformers writes is read by its model_type and its tokenizer.json, without llmx.json."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=40, rope_theta=500.0, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="40KB")
    AutoTokenizer.from_pretrained(char_run / "model").save_pretrained(tmp_path / "hf")
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    ours = llmx.load(tmp_path / "hf")
    ids = torch.randint(300, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    assert isinstance(ours.generate("Hi", max_new_tokens=5), str)


def test_a_run_without_a_model_yet_gives_its_newest_checkpoint(char_run: Path, tmp_path: Path) -> None:
    """One can try a model while it trains."""
    shutil.copytree(char_run, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "model")
    assert llmx.load(tmp_path / "r", sampler=["greedy"]).generate("The") == llmx.load(
        char_run, sampler=["greedy"]
    ).generate("The")
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint yet; go on with: llmx run"):
        llmx.load(tmp_path / "r")


def test_a_seed_is_a_text(char_run: Path) -> None:
    """Equal seeds draw equal texts, others differ, and streaming shows the same."""
    model = llmx.load(char_run, sampler=["temperature"])
    first = model.generate("The", seed=1)
    assert first == model.generate("The", seed=1) == "".join(model.stream("The", seed=1))
    assert first != model.generate("The", seed=2)
    both = model.generate(["The", "The"], seed=1)
    assert both[0] == first != both[1]  # each sequence of a call has its own stream


def test_a_call_has_its_own_temperature_and_stop_strings(char_run: Path) -> None:
    """As the trainer's; several prompts may be a tuple, and what is no prompt is told."""
    model = llmx.load(char_run, sampler=["temperature"])
    greedy = llmx.load(char_run, sampler=["greedy"])
    best = greedy.generate("The")
    assert model.generate("The", temperature=0) == model.generate("The", temperature=1e-6) == best
    assert model.generate("The", temperature=5.0, seed=1) != model.generate("The", seed=1)
    stop = best[10:12]
    assert model.generate("The", temperature=0, stop=stop) == best[: best.index(stop)]
    assert model.generate(("The", "A"), temperature=0, stop=[stop, "\n\n"])[0] == best[: best.index(stop)]
    assert "".join(model.stream("The", temperature=0, stop=stop)) == best[: best.index(stop)]
    whole = model.complete("The", temperature=0, stop=[stop])
    assert (whole.text, whole.finish_reason) == (best[: best.index(stop)], "stop")
    with pytest.raises(RecipeError, match=r"^prompt: are several"):
        model.complete(["The", "A"])
    assert model.complete("The", stop=None, max_new_tokens=1).prompt == "The"
    for name, wrong in {"stop": [7], "temperature": "hot", "max_new_tokens": 2.5}.items():
        with pytest.raises(RecipeError, match=rf"^{name}: must be "):
            model.generate("The", **{name: wrong})  # type: ignore[call-overload]
    for wrong in (None, 7, b"The", [], ["The", 7], {"role": "user"}):
        with pytest.raises(RecipeError, match=r"^prompt: give a text, a list of texts, or a chat"):
            model.generate(wrong)  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match=r"^stop: is empty"):
        model.generate("The", stop="")
    with pytest.raises(RecipeError, match=r"^temperature: the sampler chain has none"):
        greedy.generate("The", temperature=0.5)
    with pytest.raises(RecipeError, match=r"^temperature = nan: must be 0"):
        model.generate("The", temperature=float("nan"))


def test_the_chain_is_what_was_asked_for(char_run: Path) -> None:
    """top-k of 1 is greedy, in any chain; options reach their link."""
    greedy = llmx.load(char_run, sampler=["greedy"]).generate("The")
    one = llmx.load(char_run, sampler=["top-k", "temperature"], overrides={"sampler.top-k.k": 1})
    assert one.generate("The", seed=3) == greedy


def test_what_has_no_effect_any_more_is_refused(char_run: Path, llmx_cli: Any) -> None:
    """An override of what made the model: from a run folder and its `model/`, in Python and on the command line."""
    for folder in (char_run, char_run / "model"):
        for wrong in ("template=llama", "model.layers=9", "train.steps=1", "sampelr.top-k.k=1"):
            with pytest.raises(RecipeError, match=r"only generate\.\* and sampler\.\* can be given") as caught:
                llmx.load(folder, sampler=["top-k"], overrides=["sampler.top-k.k=1", wrong])
            assert str(caught.value).startswith(f"{wrong}: the model in ")
    with pytest.raises(RecipeError, match=r"^template: the model in"):
        llmx.load(char_run, overrides={"template": "llama"})
    for command in (["generate", char_run, "The"], ["serve", char_run, "--port", 0]):
        done = llmx_cli(*command, "template=llama")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "template=llama: the model in" in done.stderr


def test_generation_ends_at_the_context(char_run: Path) -> None:
    """The budget is cut to what the context holds; the last token is still right."""
    model = llmx.load(char_run, sampler=["greedy"])
    done = model.complete("a" * 50, max_new_tokens=1000)
    assert (done.tokens, done.finish_reason) == (64 - 51, "length")


def test_prompts_that_cannot_be_continued_say_why(char_run: Path) -> None:
    """Longer than the context: the numbers and what to do. An empty one begins with the begin token."""
    model = llmx.load(char_run)
    with pytest.raises(RecipeError, match=r"prompt: is 64 tokens long; the model's context of 64 leaves no room"):
        model.generate("a" * 63)
    assert isinstance(model.generate("", max_new_tokens=3), str)


class Bytes:
    """Bytes as ids."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_a_character_is_shown_when_it_is_whole() -> None:
    """Streaming never shows half of a character that spans tokens; what stays broken is shown at the end."""
    pieces = list(stream_text(Bytes(), iter("a汉🙂b".encode())))  # type: ignore[arg-type]
    assert pieces == ["a", "汉", "🙂", "b"]
    assert "".join(stream_text(Bytes(), iter("汉".encode()[:2]))) == "\ufffd"  # type: ignore[arg-type]


def test_a_streak_of_broken_bytes_is_read_once() -> None:
    """Its text is that of all ids together, and no token has more than some dozens read again."""
    widest = 0

    class Counted(Bytes):
        def decode(self, ids: list[int]) -> str:
            nonlocal widest
            widest = max(widest, len(ids))
            return super().decode(ids)

    ids = [*"a汉".encode(), *[0xE6] * 3, *[0xB1] * 400, *"🙂".encode(), *[0xF0, 0x9F] * 200, *"汉".encode()]
    stream = TextStream(Counted())  # type: ignore[arg-type]
    text = "".join([stream.feed(each) for each in ids]) + stream.finish()
    assert text == bytes(ids).decode("utf-8", "replace")
    assert widest < 64


# --- folders that are not what they should be -----------------------------------------------------------------------


def spoiled(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run / "model", tmp_path / "m")
    return tmp_path / "m"


def test_a_tokenizer_of_another_model_is_refused(char_run: Path, tmp_path: Path) -> None:
    """Its files are hashed with the model; a larger vocabulary than the embedding is refused without a hash too."""
    folder = spoiled(char_run, tmp_path)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"a"', '"\u0100"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the tokenizer's files are not those the model was trained with"):
        llmx.load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "llmx.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ ids, the model's embedding only 100"):
        llmx.load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no config.json: not a model folder"),
        ("config.json", b"{", r"config\.json: cannot be read"),
        ("model.safetensors", None, r"no model\.safetensors; weights are read from safetensors only"),
        ("model.safetensors", b"\x08", r"model\.safetensors: damaged"),
    ],
)
def test_a_damaged_folder_is_named(
    char_run: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    """A missing or broken file is one line with its name."""
    folder = spoiled(char_run, tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        llmx.load(folder)


def test_weights_that_do_not_fit_are_named(char_run: Path, tmp_path: Path) -> None:
    """A missing tensor, one too many and one of another shape: each by its name."""
    from safetensors.torch import load_file, save_file

    folder = spoiled(char_run, tmp_path)
    weights = load_file(folder / "model.safetensors")
    norm = "model.norm.weight"
    cases = [
        ({k: v for k, v in weights.items() if k != norm}, r"lacks model\.norm\.weight"),
        ({**weights, "x": torch.zeros(1)}, "has the unexpected x"),
        ({**weights, norm: torch.zeros(3)}, r"model\.norm\.weight has shape \[3\], the config says \[64\]"),
    ]
    for changed, message in cases:
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            llmx.load(folder)
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    llmx.load(folder)  # a tied head stored twice is the same model


def test_a_model_type_nobody_reads_is_named(char_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is known; where the bridge is, it says why it does not read one."""
    folder = spoiled(char_run, tmp_path)
    (folder / "llmx.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(CheckpointError, match=r"model_type = 'mamba': keeps a recurrent state"):
        llmx.load(folder)
    monkeypatch.setenv("LLMX_DISABLE_PLUGINS", "transformers")
    with pytest.raises(CheckpointError, match=r"model_type = 'mamba': no plugin reads it \(known: .*llama"):
        llmx.load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    with pytest.raises(CheckpointError, match="cannot build a Llama with attention_bias = True"):
        llmx.load(folder)
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: lacks 'hidden_size'"):
        llmx.load(folder)
