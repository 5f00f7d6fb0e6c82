"""What all tokenizers keep that are learned: nothing of a text is lost, and other tools read what they save."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import llmx_tokenizers
from llmx.errors import RecipeError
from llmx.options import describe, structure

COMPONENTS = {each.name: each for each in llmx_tokenizers.llmx_tokenizers()}
CHAT = ("<|im_start|>", "<|im_end|>", "<think>")
LEARNED = [
    ("char", {}),
    ("char", {"vocab_size": 280}),
    ("char", {"special_tokens": CHAT}),
    ("sentencepiece", {"vocab_size": 380}),
    ("sentencepiece", {"vocab_size": 380, "special_tokens": CHAT}),
    ("sentencepiece", {"vocab_size": 320, "model_type": "unigram"}),
    ("sentencepiece", {"vocab_size": 320, "model_type": "unigram", "special_tokens": CHAT}),
    ("bpe", {"vocab_size": 400}),
    ("bpe", {"vocab_size": 400, "special_tokens": CHAT}),
]


def name_of(case):
    """Return what a case is called in the list of tests."""
    return "-".join([case[0], *(str(each) if not isinstance(each, tuple) else "chat" for each in case[1].values())])


@pytest.fixture(scope="module", params=LEARNED, ids=name_of)
def case(request):
    """The name and options of each of the tokenizers that are learned."""
    return request.param


@pytest.fixture(scope="module")
def learned(case, build):
    """Each of the tokenizers that are learned."""
    return build(case[0], **case[1])


@pytest.fixture
def specials(case):
    """Its special tokens in the order of their ids."""
    return ["<pad>", "<unk>", "<bos>", "<eos>", *case[1].get("special_tokens", ())]


def test_importing_the_plugin_imports_nothing_heavy():
    """Names and options of all tokenizers are read without torch, numpy and any tokenizer's library."""
    code = "import sys, llmx_tokenizers as p; print(len(p.llmx_tokenizers()), *sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    count, *modules = done.stdout.split()
    assert count == "4"
    assert not {"torch", "numpy", "sentencepiece", "tokenizers", "tiktoken"} & set(modules)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_explains_its_options(name):
    """The target has build and load, and no option is without a meaning."""
    assert callable(COMPONENTS[name].load().build)
    assert callable(COMPONENTS[name].load().load)
    assert all(option.meaning for option in describe(COMPONENTS[name].options))


def test_any_text_survives(case, learned, hard, specials):
    """Decoding the ids of a text gives the text, for bpe in NFC: all of Unicode, white space and names of specials."""
    form = "NFC" if case[0] == "bpe" else None

    @settings(max_examples=150)
    @given(st.text())
    def check(text):
        ids = learned.encode(text)
        assert learned.decode(ids) == (unicodedata.normalize(form, text) if form else text)
        assert all(len(specials) <= each < learned.vocab_size for each in ids)

    for text in [*hard, "".join(specials)]:
        check = example(text)(check)
    check()


def test_a_batch_is_its_texts(learned, hard, texts):
    """`encode_batch` and `encode_arrays` give what `encode` gives for each, in order; none for none."""
    alone = [learned.encode(text) for text in hard + texts]
    assert learned.encode_batch(hard + texts) == alone
    found = learned.encode_arrays(hard + texts)
    assert [each.tolist() for each in found] == alone
    assert {each.dtype.name for each in found} == {"int32"}
    assert learned.encode_batch([]) == list(learned.encode_arrays([])) == []


def test_special_ids_say_nothing(learned, specials):
    """The specials come first, decode to nothing, and a broken UTF-8 sequence decodes to U+FFFD."""
    assert (learned.bos_id, learned.eos_id) == (2, 3)
    numbers = list(range(len(specials)))
    assert learned.decode([]) == learned.decode(numbers) == ""
    ids = learned.encode("fox")
    assert learned.decode([2, *ids, *numbers]) == "fox"
    assert learned.decode([*learned.encode("\U0010ffff")[:2], *ids]).strip("\ufffd") == "fox"


def test_special_tokens_are_made_from_markup_alone(learned, specials):
    """Each has one id, which markup has where it is named and plain text nowhere; another name has none."""
    assert [learned.special_id(name) for name in specials] == list(range(len(specials)))
    assert learned.special_id("fox") is learned.special_id("<none>") is None
    for number, name in enumerate(specials):
        ids = learned.encode_markup(f"{name}fox {name}\n")
        assert ids == [number, *learned.encode("fox "), number, *learned.encode("\n")]
        assert number not in learned.encode(f"{name}fox {name}\n")
    assert learned.encode_markup("") == []


def test_a_saved_tokenizer_is_the_same(learned, specials, tmp_path, saved, hard, texts):
    """Loading needs the folder alone; ids are equal and saving again writes the same bytes."""
    first = saved(learned, tmp_path / "a")
    loaded = type(learned).load(tmp_path / "a")
    assert loaded.encode_batch(hard + texts) == learned.encode_batch(hard + texts)
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (learned.vocab_size, 2, 3)
    assert [loaded.special_id(name) for name in specials] == list(range(len(specials)))
    assert saved(loaded, tmp_path / "b") == first


def test_equal_texts_give_equal_files(case, learned, build, tmp_path, saved):
    """Learning twice from the same texts writes the same bytes."""
    assert saved(build(case[0], **case[1]), tmp_path / "again") == saved(learned, tmp_path / "first")


def ordinary(hard, texts):
    """Return texts without what sentencepiece and transformers read otherwise: U+2581 and names in brackets."""
    found = [text for text in hard + texts if "▁" not in text and "<" not in text]
    assert len(found) > 10
    return found


def test_transformers_reads_what_is_saved(learned, specials, tmp_path, hard, texts):
    """AutoTokenizer gives the same ids and texts, knows the special tokens, and puts <bos> first as training does."""
    learned.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ordinary(hard, texts):
        ids = learned.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs(text).input_ids == [2, *ids]
        assert theirs.decode(ids) == learned.decode(ids)
    marked = "".join(f"{name}fox\n" for name in specials)
    assert theirs(marked, add_special_tokens=False).input_ids == learned.encode_markup(marked)
    assert theirs.decode(learned.encode_markup(marked), skip_special_tokens=True) == "fox\n" * len(specials)
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id] == [0, 1, 2, 3]
    assert set(theirs.all_special_ids) == set(range(len(specials)))
    assert len(theirs) == learned.vocab_size


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_bpe_keeps_its_ids_beside_a_model(build, tmp_path, model_type, hard, texts):
    """In a model folder, where transformers chooses a tokenizer by the model, the ids are the same."""
    tokenizer = build("bpe", vocab_size=400, special_tokens=CHAT)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ordinary(hard, texts):
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)
    marked = "<|im_start|>user\nfox<|im_end|>\n<think>"
    assert theirs(marked, add_special_tokens=False).input_ids == tokenizer.encode_markup(marked)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (2, 3, 0)


@pytest.mark.parametrize("names", [["a", "a"], [""], [" <x>"]])
def test_names_of_special_tokens_are_checked(names):
    """The same twice, nothing, and white space around a name are faults of the option."""
    for name in ("char", "sentencepiece", "bpe"):
        _, faults = structure(COMPONENTS[name].options, {"special_tokens": names}, "tokenizer")
        assert [fault.path for fault in faults] == ["tokenizer.special_tokens"]


@pytest.mark.parametrize(("name", "size"), [("char", 260), ("sentencepiece", 261), ("bpe", 261)])
def test_too_many_special_tokens_name_a_size_that_works(build, name, size):
    """A vocabulary that does not hold them and the bytes is an error with the least size that does."""
    with pytest.raises(RecipeError, match=r"tokenizer\.vocab_size = \d+: too few for 7 .*: set 263 or more"):
        build(name, vocab_size=size, special_tokens=CHAT)


@pytest.mark.parametrize("name", ["char", "sentencepiece", "bpe"])
def test_our_own_special_tokens_may_be_named(build, name):
    """A template that names <eos> gets the one there is; of two names that begin alike the longer one is read."""
    tokenizer = build(name, vocab_size=380, special_tokens=["<eos>", "<x", "<x>"])
    assert [tokenizer.special_id(each) for each in ("<eos>", "<x", "<x>")] == [3, 4, 5]
    assert tokenizer.encode_markup("<x><x<eos>") == [5, 4, 3]
    assert tokenizer.encode("a")[0] >= 6
