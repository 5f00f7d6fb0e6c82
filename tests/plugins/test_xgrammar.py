"""The sampler that keeps to a JSON schema: what tokens spell, what it lets through, what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from llmx import RecipeError
from llmx.options import structure
from llmx_tokenizers import BpeOptions, CharOptions, SentencePieceOptions
from llmx_xgrammar import JsonSchemaOptions
from llmx_xgrammar.sampler import JsonSchema
from llmx_xgrammar.vocabulary import token_bytes

TEXTS = ['{"name": "Bo", "age": 12, "tags": ["a", "b"]}', "你好，世界。▁ 敏捷的棕色狐狸 true false null"] * 20


def tokenizer(name: str) -> Any:
    from llmx import Registry

    component = Registry().find("tokenizer", name, "tokenizer").component
    options = {
        "char": lambda: CharOptions(),
        "bpe": lambda: BpeOptions(vocab_size=340),
        "sentencepiece": lambda: SentencePieceOptions(vocab_size=340),
    }[name]()
    return component.load().build(options, TEXTS)


@pytest.fixture(scope="module", params=["char", "bpe", "sentencepiece"])
def made(request: pytest.FixtureRequest) -> Any:
    """Each kind of tokenizer, learned from a little JSON and Chinese."""
    return tokenizer(request.param)


def test_tokens_spell_what_they_decode_to(made: Any) -> None:
    """The bytes of a text's tokens, put together, are the text's; special tokens have none."""
    spelled = token_bytes(made)
    assert len(spelled) == made.vocab_size
    assert spelled[made.eos_id] == b""
    for text in TEXTS[:2]:
        assert b"".join(spelled[token] for token in made.encode("x" + text)).decode().strip() == "x" + text
    assert any(len(each) == 1 and each[0] > 127 for each in spelled)  # parts of characters


def draw(made: Any, schema: Any, seed: int, most: int = 400) -> str | None:
    """Draw at random among what is let through; None where the budget ends first."""
    link, chance = JsonSchema(JsonSchemaOptions(json.dumps(schema)), made), random.Random(seed)
    state, ids = link.start([]), []  # type: ignore[var-annotated]
    for _ in range(most):
        kept = link(torch.zeros(1, made.vocab_size + 5), [state])[0].isfinite().nonzero()[:, 0].tolist()
        token = chance.choice(kept)
        if token == made.eos_id:
            return b"".join(token_bytes(made)[each] for each in ids).decode()
        link.accept(state, token)
        ids.append(token)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_drawn_is_json_of_the_schema(made: Any, seed: int) -> None:
    """At random, not by a model: so nothing but the mask keeps it."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "你"]}, "c": {"type": "string", "maxLength": 5}},
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    }
    text = draw(made, schema, seed)
    assert text is not None
    found = json.loads(text)
    assert found.keys() == {"a", "b", "c"}
    assert type(found["a"]) is int
    assert found["b"] in ("x", "你")
    assert len(found["c"]) <= 5


def test_rows_are_masked_each_by_its_own_state(made: Any) -> None:
    """A row in a batch is let through what it is alone."""
    link = JsonSchema(JsonSchemaOptions('{"enum": ["aa", "bb"]}'), made)
    states = [link.start([]) for _ in range(3)]
    for token in made.encode('"')[-1:]:
        link.accept(states[1], token)
    together = link(torch.zeros(3, made.vocab_size), states)
    alone = torch.cat([link(torch.zeros(1, made.vocab_size), [state]) for state in states])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


def test_what_cannot_be_kept_to() -> None:
    """A schema of an unknown type, a text that is no schema, a tokenizer without the characters of JSON."""
    made = tokenizer("char")
    with pytest.raises(RecipeError, match="cannot be kept to"):
        JsonSchema(JsonSchemaOptions('{"type": "no such"}'), made)
    for text in ("{", "[" * 10_000, "3"):
        _, faults = structure(JsonSchemaOptions, {"schema": text}, "json-schema")
        assert len(faults) == 1


def test_a_published_tokenizer(tmp_path: Path) -> None:
    """Byte-level BPE with added tokens that are not special, as Qwen3's <think>: told as they are."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from llmx_tokenizers.hf import HfTokenizer

    letters = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(letters, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|im_end|>"])
    made.add_tokens([AddedToken("<think>", special=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    read = HfTokenizer.load(tmp_path)
    spelled = token_bytes(read)
    assert spelled[read.special_id("<think>")] == b"<think>"
    assert spelled[read.special_id("<|im_end|>")] == b""
    assert sorted(spelled[:256]) == [bytes([byte]) for byte in range(256)]
