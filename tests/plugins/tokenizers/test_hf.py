"""The tokenizer `hf`: what a published tokenizer.json says is done, and what lies beside it travels."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from llmx.errors import RecipeError

CORPUS = ["The quick brown fox runs over 9 hills, and the lazy dogs are sleepier than it.\n" * 3, "敏捷的棕色狐狸" * 5]


def byte_level(specials=("<|endoftext|>", "<|im_end|>")):
    """Return a byte-level BPE tokenizer like those of GPT-2 and Qwen."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=list(specials),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture
def hf(build):
    """Write a tokenizer.json and JSON files beside it, and build from the folder."""

    def written(folder, tokenizer, **beside):
        tokenizer.save(str(folder / "tokenizer.json"))
        for name, values in beside.items():
            (folder / f"{name}.json").write_text(json.dumps(values))
        return build("hf", path=str(folder))

    return written


def test_hf_gives_the_ids_of_the_library(tmp_path, hf, texts, hard):
    """Ids are those of `tokenizers` itself, without special tokens, and any text survives."""
    library = byte_level()
    tokenizer = hf(tmp_path, library)
    for text in [each for each in hard if "<" not in each] + texts:
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == library.get_vocab_size()
    assert tokenizer.encode_batch([]) == []


def test_hf_ignores_truncation_and_padding(tmp_path, hf, texts):
    """A tokenizer.json that cuts or fills texts, as of a sentence encoder, does neither here."""
    library = byte_level()
    library.enable_truncation(4)
    library.enable_padding(length=4)
    tokenizer = hf(tmp_path, library)
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]
    assert tokenizer.encode("") == []


def unigram():
    """Return a Unigram model that has a special token among its pieces."""
    scores = [("<unk>", 0.0), ("</s>", 0.0), *((each, -3.0) for each in "</s>ab ")]
    tokenizer = tokenizers.Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


def wordpiece():
    """Return a WordPiece model that has a special token among its words."""
    words = {
        each: n for n, each in enumerate(["[UNK]", "</s>", "a", "b", "<", "##/", "##s", "##>", "##<", "/", "s", ">"])
    }
    tokenizer = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[UNK]", "</s>"])
    return tokenizer


@pytest.mark.parametrize("library", [byte_level(), unigram(), wordpiece()], ids=["bpe", "unigram", "wordpiece"])
def test_hf_makes_no_special_token_from_text(tmp_path, library, hf):
    """The name of a special token in a text is text, for every kind of model."""
    tokenizer = hf(tmp_path, library)
    name = "<|endoftext|>" if tokenizer.vocab_size > 100 else "</s>"
    ids, alone = tokenizer.encode_batch([f"a {name}{name} b", "a b"])
    assert tokenizer.eos_id is not None
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(alone).replace(" ", "") == "ab"
    assert tokenizer.decode(ids).replace(" ", "").replace("##", "") == f"a{name}{name}b"
    assert tokenizer.decode([tokenizer.eos_id, *alone]) == tokenizer.decode(alone)


SAYS = [
    ({}, None, "<|endoftext|>"),
    (
        {"tokenizer_config": {"eos_token": "<|im_end|>", "bos_token": None}, "config": {"bos_token_id": 0}},
        None,
        "<|im_end|>",
    ),
    ({"tokenizer_config": {"bos_token": {"content": "<|endoftext|>"}}}, "<|endoftext|>", "<|endoftext|>"),
    ({"tokenizer_config": {"bos_token": "<|im_end|>", "add_bos_token": False}}, None, "<|endoftext|>"),
    ({"special_tokens_map": {"bos_token": "<|im_end|>"}}, "<|im_end|>", "<|endoftext|>"),
    ({"generation_config": {"eos_token_id": [1, 0]}, "config": {"eos_token_id": 0}}, None, "<|im_end|>"),
    ({"config": {"bos_token_id": 0, "eos_token_id": 1}}, "<|endoftext|>", "<|im_end|>"),
]


@pytest.mark.parametrize(("beside", "bos", "eos"), SAYS)
def test_hf_reads_bos_and_eos_from_the_files_beside(tmp_path, beside, bos, eos, hf, saved, texts):
    """The first file that says something decides; a bare tokenizer.json has a usual end; saving keeps both."""
    library = byte_level()
    source, copy, again = tmp_path / "source", tmp_path / "copy", tmp_path / "again"
    source.mkdir()
    tokenizer = hf(source, library, **beside)
    wanted = tuple(None if token is None else library.token_to_id(token) for token in (bos, eos))
    assert (tokenizer.bos_id, tokenizer.eos_id) == wanted
    first = saved(tokenizer, copy)
    assert not {"config.json", "generation_config.json"} & set(first)  # the model's, not ours to write
    loaded = type(tokenizer).load(copy)
    assert (loaded.bos_id, loaded.eos_id) == wanted
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert saved(loaded, again) == first
    theirs = AutoTokenizer.from_pretrained(copy)
    assert theirs.eos_token_id == wanted[1]
    assert theirs(texts[0], add_special_tokens=False).input_ids == tokenizer.encode(texts[0])


def test_hf_copies_what_lies_beside(tmp_path, hf, saved):
    """A chat template and a config that says all travel unchanged; other files stay; the source may vanish."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "notes.txt").write_text("private")
    tokenizer = hf(source, byte_level(), tokenizer_config={"eos_token": "<|im_end|>", "bos_token": None, "x": 1})
    before = {each.name: each.read_bytes() for each in source.iterdir()}
    del before["notes.txt"]
    for each in source.iterdir():
        each.unlink()
    assert saved(tokenizer, copy) == before


def test_hf_takes_the_file_itself(tmp_path, build):
    """`path` may be the file, of any name, and an end that no file and no custom names is None."""
    byte_level(["<sep>"]).save(str(tmp_path / "mine.json"))
    tokenizer = build("hf", path=str(tmp_path / "mine.json"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)


def test_hf_errors_name_the_file(tmp_path, build, hf):
    """A missing, a broken and a contradicted tokenizer.json are errors of one line that say what to do."""
    cases = [(lambda: build("hf", path=str(tmp_path / "nope")), r"nope: No such file.*set tokenizer\.path")]
    cases.append((lambda: build("hf", path=str(tmp_path)), r"tokenizer\.json: No such file.*set tokenizer\.path"))
    broken = tmp_path / "broken.json"
    broken.write_text('{"model": ')
    cases.append((lambda: build("hf", path=str(broken)), r"broken\.json: is no tokenizer\.json: .*fetch it again"))
    for number, (values, pattern) in enumerate(
        [({"eos_token": "<end>"}, "has no token '<end>'"), ([], "must hold an object")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        cases.append((lambda folder=folder, values=values: hf(folder, byte_level(), tokenizer_config=values), pattern))
    for call, pattern in cases:
        with pytest.raises(RecipeError, match=pattern) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_hf_makes_added_tokens_from_markup(tmp_path, hf):
    """Special tokens and others that were added have ids by name; only those that are not special are made from text.

    That is what transformers does, and Qwen3's <think> is such a token.
    """
    library = byte_level()
    library.add_tokens(["<think>"])
    tokenizer = hf(tmp_path, library)
    end, think = tokenizer.special_id("<|im_end|>"), tokenizer.special_id("<think>")
    assert (end, think) == (library.token_to_id("<|im_end|>"), library.token_to_id("<think>"))
    assert tokenizer.special_id("fox") is None
    text = "<think>fox<|im_end|>\n"
    assert tokenizer.encode_markup(text) == AutoTokenizer.from_pretrained(tmp_path)(text).input_ids
    assert end in tokenizer.encode_markup(text)
    assert end not in tokenizer.encode(text)
    assert tokenizer.encode(text)[0] == think
