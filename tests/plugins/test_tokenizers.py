"""The built-in tokenizers: nothing of a text is lost, and other tools read what they save."""

import json
import os
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

import llmx_tokenizers
from llmx.errors import DataError, RecipeError
from llmx.options import describe, structure
from llmx_tokenizers import subwords
from llmx_tokenizers.char import CHUNK, GROUP

COMPONENTS = {each.name: each for each in llmx_tokenizers.llmx_tokenizers()}
SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
TEXTS = [
    *(
        f"The {a} fox is {b} than the {c} dog, and it runs over {n} hills.\n" * 3
        for n, (a, b, c) in enumerate(
            [("quick", "faster", "lazy"), ("brown", "older", "sleepy"), ("small", "wiser", "big")]
        )
    ),
    "    def indented(self):\n        return 1\n" * 5,
    "敏捷的棕色狐狸跳过懒狗。" * 5,
]
HARD = [
    *("", " ", "  a  b ", "\n\n\n", "\t\r\n", "你好，世界", "👩\u200d👩\u200d👧 é e\u0301", "\x00\x01\x7f", "▁ ▁▁x▅"),
    *("\ufeff\ufffd\u2028", "<eos></s><pad><0x41>", "a\u3000b", "\U0010ffff"),
]
LEARNED = [
    ("char", {}),
    ("char", {"vocab_size": 280}),
    ("sentencepiece", {"vocab_size": 380}),
    ("sentencepiece", {"vocab_size": 320, "model_type": "unigram"}),
]


def options(name, **values):
    """Structure options as a run does."""
    found, faults = structure(COMPONENTS[name].options, values, "tokenizer")
    assert not faults
    return found


def build(name, texts=TEXTS, **values):
    """Build a tokenizer as a run does: structured options, loaded target."""
    return COMPONENTS[name].load().build(options(name, **values), iter(texts))


@pytest.fixture(scope="module", params=LEARNED, ids=lambda each: f"{each[0]}-{'-'.join(map(str, each[1].values()))}")
def learned(request):
    """Each of the tokenizers that are learned."""
    return build(request.param[0], **request.param[1])


def files(folder):
    """Return every file of a folder with its bytes."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def saved(tokenizer, folder):
    """Save, and return what was written."""
    folder.mkdir()
    tokenizer.save(folder)
    return files(folder)


def test_importing_the_plugin_imports_nothing_heavy():
    """Names and options of all tokenizers are read without torch, sentencepiece and tokenizers."""
    code = "import sys, llmx_tokenizers as p; print(len(p.llmx_tokenizers()), *sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    count, *modules = done.stdout.split()
    assert count == "3"
    assert not {"torch", "sentencepiece", "tokenizers"} & set(modules)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_explains_its_options(name):
    """The target has build and load, and no option is without a meaning."""
    assert callable(COMPONENTS[name].load().build)
    assert callable(COMPONENTS[name].load().load)
    assert all(option.meaning for option in describe(COMPONENTS[name].options))


# --- what all learned tokenizers keep -------------------------------------------------------------------------------


def test_any_text_survives(learned):
    """Decoding the ids of a text gives the text: all of Unicode, white space and names of special tokens."""

    @settings(max_examples=150, deadline=None)
    @given(st.text())
    def check(text):
        ids = learned.encode(text)
        assert learned.decode(ids) == text
        assert all(4 <= each < learned.vocab_size for each in ids)

    for text in HARD:
        check = example(text)(check)
    check()


def test_a_batch_is_its_texts(learned):
    """`encode_batch` gives what `encode` gives for each, in order; none for none."""
    assert learned.encode_batch(HARD + TEXTS) == [learned.encode(text) for text in HARD + TEXTS]
    assert learned.encode_batch([]) == []


def test_special_ids_say_nothing(learned):
    """The specials are 0 to 3, decode to nothing, and a broken UTF-8 sequence decodes to U+FFFD."""
    assert (learned.bos_id, learned.eos_id) == (2, 3)
    assert learned.decode([]) == learned.decode([0, 1, 2, 3]) == ""
    ids = learned.encode("fox")
    assert learned.decode([2, *ids, 3]) == "fox"
    assert learned.decode([*learned.encode("\U0010ffff")[:2], *ids]).strip("\ufffd") == "fox"


def test_a_saved_tokenizer_is_the_same(learned, tmp_path):
    """Loading needs the folder alone; ids are equal and saving again writes the same bytes."""
    first = saved(learned, tmp_path / "a")
    loaded = type(learned).load(tmp_path / "a")
    assert loaded.encode_batch(HARD + TEXTS) == learned.encode_batch(HARD + TEXTS)
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (learned.vocab_size, 2, 3)
    assert saved(loaded, tmp_path / "b") == first


@pytest.mark.parametrize(("name", "values"), LEARNED)
def test_equal_texts_give_equal_files(name, values, tmp_path):
    """Learning twice from the same texts writes the same bytes."""
    one, two = (saved(build(name, **values), tmp_path / str(n)) for n in range(2))
    assert one == two


@pytest.mark.parametrize(("name", "values"), LEARNED)
def test_transformers_reads_what_is_saved(name, values, tmp_path):
    """AutoTokenizer gives the same ids and texts, knows the special tokens, and puts <bos> first as training does."""
    tokenizer = build(name, **values)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ordinary = [text for text in HARD + TEXTS if "▁" not in text and "<" not in text]
    assert len(ordinary) > 10
    for text in ordinary:
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs(text).input_ids == [2, *ids]
        assert theirs.decode(ids) == text
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id] == [0, 1, 2, 3]
    assert len(theirs) == tokenizer.vocab_size


# --- char -----------------------------------------------------------------------------------------------------------


def test_characters_are_ranked_by_frequency():
    """After 4 specials and 256 bytes come characters, the most frequent first, then by code point."""
    tokenizer = build("char", ["cba", "cb", "cz"])
    assert tokenizer.encode("cbaz") == [260, 261, 262, 263]
    assert tokenizer.vocab_size == 264
    assert tokenizer.encode("é") == [4 + byte for byte in "é".encode()]


def test_rare_characters_are_spelt_in_bytes():
    """`min_freq` and `vocab_size` leave the rarest characters to the bytes; 260 leaves all."""
    assert build("char", ["aab"], min_freq=2).encode("ab") == [260, 4 + ord("b")]
    assert build("char", ["aab"], vocab_size=261).encode("ab") == [260, 4 + ord("b")]
    assert build("char", ["aab"], vocab_size=260).encode("ab") == [4 + ord("a"), 4 + ord("b")]
    assert [each.path for each in structure(COMPONENTS["char"].options, {"vocab_size": 259}, "tokenizer")[1]]


def test_long_texts_are_cut_without_trace():
    """Around the sizes in which the library works, a text has the ids of its characters one by one."""
    tokenizer = build("char", ["abc"])
    for length in (CHUNK - 1, CHUNK, CHUNK + 1, GROUP + CHUNK + 1):
        text = "ab€c" * (length // 4) + "abc"[: length % 4]
        assert len(text) == length
        units = {each: tokenizer.encode(each) for each in "ab€c"}
        assert tokenizer.encode_batch([text, "a"]) == [[id_ for each in text for id_ in units[each]], units["a"]]


# --- sentencepiece --------------------------------------------------------------------------------------------------


def test_the_ids_are_those_of_sentencepiece(tmp_path):
    """tokenizer.model read by the library itself gives the same ids, and the line end is one of them."""
    tokenizer = build("sentencepiece", vocab_size=380)
    tokenizer.save(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ordinary = [text for text in HARD + TEXTS if "▁" not in text]
    assert [theirs.encode(text) for text in ordinary] == tokenizer.encode_batch(ordinary)
    assert tokenizer.encode("\n\n") == [4, 4]
    assert tokenizer.vocab_size == 380


def test_indentation_has_pieces():
    """Runs of spaces are learned: four of them are not four ids."""
    tokenizer = build("sentencepiece", vocab_size=380)
    assert len(tokenizer.encode("        return")) < 5


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_one_that_works(model_type, capfd):
    """The error has the largest size, with which learning then succeeds; the library prints nothing itself."""
    with pytest.raises(DataError, match=r"tokenizer\.vocab_size = 9999: .* \d+ at most; set \d+ or less") as caught:
        build("sentencepiece", vocab_size=9999, model_type=model_type)
    assert "\n" not in str(caught.value)
    size = int(str(caught.value).split(" at most")[0].split()[-1])
    assert build("sentencepiece", vocab_size=size, model_type=model_type).vocab_size == size
    assert capfd.readouterr() == ("", "")


def test_too_small_a_vocabulary_names_one_that_works():
    """The error has the smallest size for the characters of the text."""
    with pytest.raises(DataError, match=r"tokenizer\.vocab_size = 270: .*need \d+; set that, or lower") as caught:
        build("sentencepiece", vocab_size=270)
    size = int(str(caught.value).split("need ")[1].split(";")[0])
    assert build("sentencepiece", vocab_size=size).vocab_size == size


@pytest.mark.parametrize("texts", [[], ["", "\n"], ["\0", "▁"]])
def test_no_text_to_learn_from_is_an_error(texts):
    """Nothing, white space and signs that cannot be learned give an error of one line."""
    with pytest.raises(DataError, match=r"tokenizer") as caught:
        build("sentencepiece", texts)
    assert "\n" not in str(caught.value)


def test_long_lines_are_learned_from():
    """A document of one line, longer than the trainer takes, is not left out."""
    lines = build("sentencepiece", TEXTS * 10, vocab_size=380)
    one = build("sentencepiece", ["".join(TEXTS * 10).replace("\n", " ")], vocab_size=380)
    assert len(one.encode(TEXTS[0])) <= 1.2 * len(lines.encode(TEXTS[0]))


def test_a_sample_is_bounded_even_and_repeatable():
    """It keeps all of a small corpus; of a large one it keeps less than the bound, from its beginning to its end."""
    assert subwords.sample(["a\nb", "c\0d"], 10_000) == ["a", "b", "c", "d"]
    lines = [f"line {n:05}" for n in range(20_000)]
    kept = subwords.sample(["\n".join(lines)], 20_000)
    assert kept == subwords.sample(iter(lines), 20_000)
    assert 10_000 * 0.8 < sum(map(len, kept)) <= 20_000
    quarters = [sum(int(line[5:]) // 5000 == quarter for line in kept) / len(kept) for quarter in range(4)]
    assert all(0.2 < share < 0.3 for share in quarters)
    assert 0.4 < sum(int(line[5:]) % 2 for line in kept) / len(kept) < 0.6


# --- hf -------------------------------------------------------------------------------------------------------------


def byte_level(specials=("<|endoftext|>", "<|im_end|>")):
    """Return a byte-level BPE tokenizer like those of GPT-2 and Qwen."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=list(specials),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def hf(folder, tokenizer, **beside):
    """Write a tokenizer.json and JSON files beside it, and build from the folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, values in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return build("hf", path=str(folder))


def test_hf_gives_the_ids_of_the_library(tmp_path):
    """Ids are those of `tokenizers` itself, without special tokens, and any text survives."""
    library = byte_level()
    tokenizer = hf(tmp_path, library)
    for text in [each for each in HARD if "<" not in each] + TEXTS:
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == library.get_vocab_size()
    assert tokenizer.encode_batch([]) == []


def test_hf_ignores_truncation_and_padding(tmp_path):
    """A tokenizer.json that cuts or fills texts, as of a sentence encoder, does neither here."""
    library = byte_level()
    library.enable_truncation(4)
    library.enable_padding(length=4)
    tokenizer = hf(tmp_path, library)
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
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
def test_hf_makes_no_special_token_from_text(tmp_path, library):
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
def test_hf_reads_bos_and_eos_from_the_files_beside(tmp_path, beside, bos, eos):
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
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert saved(loaded, again) == first
    theirs = AutoTokenizer.from_pretrained(copy)
    assert theirs.eos_token_id == wanted[1]
    assert theirs(TEXTS[0], add_special_tokens=False).input_ids == tokenizer.encode(TEXTS[0])


def test_hf_copies_what_lies_beside(tmp_path):
    """A chat template and a config that says all travel unchanged; other files stay; the source may vanish."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "notes.txt").write_text("private")
    tokenizer = hf(source, byte_level(), tokenizer_config={"eos_token": "<|im_end|>", "bos_token": None, "x": 1})
    before = files(source)
    del before["notes.txt"]
    for each in source.iterdir():
        each.unlink()
    assert saved(tokenizer, copy) == before


def test_hf_takes_the_file_itself(tmp_path):
    """`path` may be the file, of any name, and an end that no file and no custom names is None."""
    byte_level(["<sep>"]).save(str(tmp_path / "mine.json"))
    tokenizer = build("hf", path=str(tmp_path / "mine.json"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)


def test_hf_errors_name_the_file(tmp_path):
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
