"""The tokenizer `bpe`: Qwen's form of byte-level BPE, learned on a bounded sample."""

import json
import os
import random
import subprocess
import sys

import pytest
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from llmx.errors import DataError
from llmx_tokenizers import bytepairs

LEARN = """
import json, sys
from pathlib import Path
from llmx_tokenizers import BpeOptions
from llmx_tokenizers.bytepairs import BpeTokenizer
tokenizer = BpeTokenizer.build(BpeOptions(vocab_size=600), json.load(sys.stdin))
tokenizer.save(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def many():
    """Texts of made-up words in which many pairs are equally frequent."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(300)]
    return [" ".join(words[at : at + 20]) * 2 for at in range(0, 300, 20)]


def test_the_form_is_qwens(build, tmp_path):
    """The split is the one of transformers' own Qwen2 tokenizer; a digit, a contraction and spaces split so."""
    tokenizer = build("bpe", ["it's 1234   x 1234 1234 1234\n\n\n"] * 9, vocab_size=400)
    tokenizer.save(tmp_path)
    form = json.loads((tmp_path / "tokenizer.json").read_text())
    assert form["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": PRETOKENIZE_REGEX}
    assert form["normalizer"] == {"type": "NFC"}
    pieces = [tokenizer.decode([each]) for each in tokenizer.encode("it's 1234   x\n\n\n")]
    assert pieces == ["it", "'s", " ", "1", "2", "3", "4", "  ", " x", "\n\n\n"]


def test_it_is_the_same_on_any_number_of_threads_and_in_any_process(many, tmp_path):
    """Ties between pairs are broken alike: one thread, two, and hashes of another seed give the same file."""
    found = set()
    for count, seed in (("1", "0"), ("2", "1")):
        folder = tmp_path / count
        folder.mkdir()
        settings = {"RAYON_NUM_THREADS": count, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", LEARN, str(folder)]
        subprocess.run(command, input=json.dumps(many), text=True, check=True, env={**os.environ, **settings})
        found.add((folder / "tokenizer.json").read_bytes())
    (file,) = found
    assert len(json.loads(file)["model"]["merges"]) > 300


def test_ids_are_counted_in_vocab_size(build, many, capsys):
    """A corpus that has more to learn fills the vocabulary to the id; a small one gives fewer, and one line says so."""
    assert build("bpe", many, vocab_size=300, special_tokens=["<x>"]).vocab_size == 300
    assert capsys.readouterr().err == ""
    small = build("bpe", ["aab aab"], vocab_size=300)
    assert 260 < small.vocab_size < 300
    assert capsys.readouterr().err.startswith(f"llmx: tokenizer: learned {small.vocab_size} ids, ")
    assert build("bpe", ["aab aab"], vocab_size=300, min_frequency=3).vocab_size == 260


def test_a_long_corpus_is_sampled_to_its_end(build):
    """No more than `sample_bytes` are learned from, and words of the end are among them as those of the beginning."""
    rest = [f"{word} " * 4 + "\n" for word in ["begin"] * 2000 + ["ending"] * 2000]
    tokenizer = build("bpe", rest, vocab_size=400, sample_bytes=10_000)
    assert [len(tokenizer.encode(f" {word}")) for word in ("begin", "ending")] == [1, 1]


def test_passages_are_the_texts_cut_before_lines():
    """Nothing is lost; cuts are at line starts that white space does not follow, or in a line that is too long."""
    text = "def f():\n    return 1\n\n\n" * 500
    passages = list(bytepairs._passages([text, "", "x" * 5000, "short"]))
    assert "".join(passages) == text + "x" * 5000 + "short"
    assert all(len(each) <= 2 * bytepairs.PASSAGE for each in passages)
    cut = [each for each in passages if each.startswith("def")]
    assert len(cut) > 5
    assert all(each.endswith("\n\n\n") for each in cut)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_to_learn_from_is_an_error(texts, build):
    """Nothing and empty texts give an error of one line."""
    with pytest.raises(DataError, match=r"tokenizer: there is no text to learn from"):
        build("bpe", texts)


def test_the_template_of_a_chat_is_read_with_it(build, tmp_path):
    """With a chat template beside it, transformers encodes a chat as markup and content make it."""
    tokenizer = build("bpe", vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"])
    tokenizer.save(tmp_path)
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template([{"role": "user", "content": "Fox?"}], tokenize=True, return_dict=False)
    assert ids == tokenizer.encode_markup("<|im_start|>user\nFox?<|im_end|>\n")
