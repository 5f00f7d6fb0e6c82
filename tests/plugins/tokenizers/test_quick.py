"""The fast way: the ids are those of the `tokenizers` library and of sentencepiece, or it is not taken."""

import itertools
import json
import re
import unicodedata

import pytest
import tiktoken
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Split

from llmx_tokenizers import bytelevel, fast, pieces, quick
from llmx_tokenizers.bytelevel import GPT2, PATTERNS, QWEN2, quick_of

NAMED = ("<think>", "</think>", "<|im_end|>")
CORPUS = [
    "It's THE quick-brown foxes' 1234567 hills; isn't it?  They'll\trun, HTTPServer's over_all\r\n\r\n   of them.\n"
    * 4,
    "敏捷的棕色狐狸跳过懒狗。" * 5 + "Größe naïve été Ελληνικά русский हिन्दी ไทย 한국어",
    "aaaaaaaa aaaa aa abababab ababab bbbb baba cacao cocoa\n\n\n    return\n        return\n" * 5,
]
WORDS = st.lists(
    st.sampled_from(["aa", "aba", "bab", " ", "  ", "\n", "\r", "'s", "'LL", "123", "的", "é", "e\u0301", ".", *NAMED])
)
SOME = st.one_of(st.text(), WORDS.map("".join), st.text("ab \n'", max_size=60))


def byte_bpe(pattern=QWEN2, *, normal=True, named=NAMED, size=600):
    """Return a byte-level BPE tokenizer with a split, as published ones are; its last name alone is special."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC() if normal else None
    steps = [Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in named[:-1]])
    made.add_special_tokens(list(named[-1:]))
    made.encode_special_tokens = True
    return made


def ids_of(library):
    """Return what encodes texts with a tokenizer of the library itself."""
    return lambda texts: [each.ids for each in library.encode_batch(list(texts), add_special_tokens=False)]


def changed(library, **parts):
    """Return a tokenizer with parts of its tokenizer.json exchanged."""
    form = json.loads(library.to_str())
    for path, value in parts.items():
        at = form
        *folders, last = path.split("__")
        for each in folders:
            at = at[each]
        at[last] = value
    made = tokenizers.Tokenizer.from_str(json.dumps(form))
    made.encode_special_tokens = True
    return made


# --- byte-level BPE -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*itertools.product(sorted(PATTERNS), [True]), (QWEN2, False)])
def library(request):
    """A tokenizer of every split that the fast way takes, and one without NFC."""
    return byte_bpe(request.param[0], normal=request.param[1])


@pytest.fixture(scope="module")
def found(library):
    """What is as fast for it."""
    made = quick_of(library, ids_of(library))
    assert made is not None
    return made


def test_ids_are_those_of_the_library(library, found):
    """Hypothesis: all of Unicode, joined words, runs, contractions, names of tokens, texts not in NFC."""

    @settings(max_examples=250)
    @given(st.lists(SOME, max_size=4))
    @example(["<think>\u0338x", "e\u0301<think>", "<|im_end|>", quick.BREAK, f"a{quick.BREAK}b"])
    def check(texts):
        assert [each.tolist() for each in found(texts)] == ids_of(library)(texts)

    check()


def split_alike(library, quick, codes):
    """Return whether each code point between letters, a digit and itself has the same ids."""
    parts = [codes[at : at + 50_000] for at in range(0, len(codes), 50_000)]
    texts = ["".join(f"a{chr(code)}1{chr(code)}" for code in part) for part in parts]
    return all(quick([text])[0].tolist() == ids_of(library)([text])[0] for text in texts)


def test_every_assigned_character_is_split_alike():
    """All code points of the planes that have letters: both libraries have the same tables for Qwen's split."""
    library = byte_bpe()
    assert split_alike(library, quick_of(library, ids_of(library)), [*range(0xD800), *range(0xF900, 0x33480)])


@pytest.mark.long
def test_every_character_is_split_alike(library, found):
    """All 1,112,064 code points, with every split."""
    assert split_alike(library, found, [*range(0xD800), *range(0xE000, 0x110000)])


def test_normal_forms_are_the_librarys():
    """Python and the library agree for every character, alone and under an accent, whether it is in NFC."""
    normal = normalizers.NFC()
    codes = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn"
    ]
    for text in (form for each in codes for form in (each, f"a{each}\u0301")):
        if unicodedata.is_normalized("NFC", text):
            assert normal.normalize_str(text) == text


def test_large_batches_are_shared_among_threads(library, found, monkeypatch):
    """More than one group, on one thread and on three: the ids of each text, in order; none for none."""
    texts = [text * 40 for text in CORPUS] * 15 + ["", "x"]
    assert sum(map(len, texts)) > 2 * quick.GROUP
    for count in ("1", "3"):
        monkeypatch.setenv("RAYON_NUM_THREADS", count)
        assert [each.tolist() for each in found(texts)] == ids_of(library)(texts)
    assert found([]) == []


def test_long_runs_are_left_to_the_library(library, found):
    """A million spaces, which its regular expressions cannot take, are encoded all the same, and others beside them."""
    for text in (" " * 1_000_000, "a" * 100_000, "\n" * 100_000, "ab" * 50_000, "1" * 50_000):
        assert [each.tolist() for each in found(["x", text, "e\u0301"])] == ids_of(library)(["x", text, "e\u0301"])


def test_gpt2s_own_split_and_ignored_merges():
    """`ByteLevel` with its own regular expression, and words taken whole as in Llama 3, are read too."""
    plain = byte_bpe(GPT2)
    own = changed(
        plain, pre_tokenizer={**json.loads(plain.to_str())["pre_tokenizer"]["pretokenizers"][1], "use_regex": True}
    )
    whole = changed(plain, model__ignore_merges=True)
    for library in (own, whole):
        made = quick_of(library, ids_of(library))
        assert made is not None
        assert [each.tolist() for each in made(CORPUS)] == ids_of(library)(CORPUS)


def other_forms():
    """Return tokenizers that are not of the form, by what is odd about them."""
    plain = byte_bpe()
    form = json.loads(plain.to_str())
    merges, vocab = form["model"]["merges"], form["model"]["vocab"]
    swapped = [*merges[:50], merges[90], *merges[51:90], merges[50], *merges[91:]]
    split, spell = form["pre_tokenizer"]["pretokenizers"]
    broad = {**form["added_tokens"][0], "lstrip": True}
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    beyond = {**letters, "bc": 256, "ab": 257, "abc": 258}  # of "abc" the end is joined first, and then nothing more
    overlapping = byte_bpe(named=("<a<", "<b>", "<c>"))
    return {
        "merges out of order": changed(plain, model__merges=swapped),
        "a merge that is missing": changed(plain, model__merges=merges[1:]),
        "another split": byte_bpe(r"\p{L}+|\s+|."),
        "two splits": changed(plain, pre_tokenizer__pretokenizers=[split, split, spell]),
        "a split that drops": changed(plain, pre_tokenizer__pretokenizers=[{**split, "behavior": "Removed"}, spell]),
        "a space before": changed(plain, pre_tokenizer__pretokenizers=[split, {**spell, "add_prefix_space": True}]),
        "no split": changed(plain, pre_tokenizer=None),
        "lower case": changed(plain, normalizer={"type": "Lowercase"}),
        "a name that takes spaces": changed(plain, added_tokens=[broad, *form["added_tokens"][1:]]),
        "names that overlap": overlapping,
        "dropout": changed(plain, model__dropout=0.1),
        "a word no merge makes": changed(plain, model__vocab={**vocab, "zzzz": 700}, model__ignore_merges=True),
        "a token that is not reached": changed(
            byte_bpe(named=()), model__vocab=beyond, model__merges=[["b", "c"], ["a", "b"], ["ab", "c"]]
        ),
        "a byte that is missing": changed(plain, model__vocab={k: v for k, v in vocab.items() if k != "\u0100"}),
        "no BPE": tokenizers.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")),
    }


OTHERS = other_forms()


@pytest.mark.parametrize("what", OTHERS)
def test_other_forms_are_left_to_the_library(what):
    """Where it cannot be shown that the ids are the same, there is no fast way."""
    assert quick_of(OTHERS[what], ids_of(OTHERS[what])) is None


def test_tables_of_another_unicode_version_are_noticed(monkeypatch):
    """A difference in one block of letters, as between versions of Unicode, is found before any text is encoded."""
    real = tiktoken.Encoding

    def older(name, *, pat_str, **others):
        return real(name, pat_str=pat_str.replace(r"\p{L}", r"[\p{L}--[\x{31350}-\x{323AF}]]"), **others)

    monkeypatch.setattr(tiktoken, "Encoding", older)
    assert not bytelevel.splits_alike.__wrapped__(QWEN2)
    monkeypatch.setattr(bytelevel, "splits_alike", bytelevel.splits_alike.__wrapped__)
    library = byte_bpe()
    assert quick_of(library, ids_of(library)) is None
    monkeypatch.setattr(tiktoken, "Encoding", real)
    assert quick_of(library, ids_of(library)) is not None


def test_it_begins_when_there_is_enough_text(build, tmp_path, monkeypatch):
    """A tokenizer takes the fast way after so many characters, and nothing is seen of it but the time."""
    library = byte_bpe()
    library.save(str(tmp_path / "tokenizer.json"))
    used = []
    monkeypatch.setattr(fast, "quick_of", lambda *given: used.append(quick_of(*given)) or used[-1])
    monkeypatch.setattr(quick, "WORTH", 3 * len(CORPUS[0]))
    monkeypatch.setattr(quick.Choice, "_faster", lambda *_: True)
    tokenizer = build("hf", path=str(tmp_path))
    rounds = []
    for number in range(3):
        assert len(used) == (number > 1)
        rounds.append((tokenizer.encode_batch(CORPUS[:1]), tokenizer.encode_arrays(CORPUS[:1])[0].tolist()))
    assert isinstance(used[0], quick.Quick)
    assert rounds == [(ids_of(library)(CORPUS[:1]), ids_of(library)(CORPUS[:1])[0])] * 3


@pytest.mark.parametrize(("seconds", "taken"), [((0, 1), True), ((1, 0), False)])
def test_the_way_that_is_faster_is_taken(monkeypatch, seconds, taken):
    """Both are timed once, on the texts at hand."""
    clock = iter([0, seconds[0], seconds[0] + seconds[1]])
    monkeypatch.setattr(quick.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(quick, "WORTH", 1)
    ways = []
    choice = quick.Choice(lambda: lambda _: ways.append("quick"), lambda _: ways.append("slow"))
    assert [choice(["a"]) is not None for _ in range(3)] == [taken] * 3
    assert ways == ["quick", "slow"]


# --- sentencepiece --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subword(build):
    """A sentencepiece BPE tokenizer, and what is as fast."""
    tokenizer = build("sentencepiece", CORPUS, vocab_size=420, special_tokens=["<x>"], character_coverage=0.99)
    made = pieces.quick_of(tokenizer._processor, tokenizer._library)
    assert made is not None
    return tokenizer, made


def test_ids_are_those_of_sentencepiece(subword):
    """Hypothesis: all of Unicode, characters with and without a piece, spaces, line ends, the sign U+2581."""
    tokenizer, made = subword

    @settings(max_examples=500)
    @given(st.lists(st.one_of(SOME, st.text("aé的狗 \n▁敏皿😀😁", max_size=30)), max_size=4))
    def check(texts):
        assert [each.tolist() for each in made(texts)] == [tokenizer.encode(text) for text in texts]

    check()


def test_every_character_is_one_of_sentencepiece(subword):
    """All code points, each beside letters and spaces."""
    tokenizer, made = subword
    codes = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(f"a{each} {each}" for each in codes[at : at + 5000]) for at in range(0, len(codes), 5000)]
    assert [each.tolist() for each in made(texts)] == [tokenizer.encode(text) for text in texts]


def test_a_unigram_model_has_no_fast_way(build):
    """Its ids are not made by joining."""
    tokenizer = build("sentencepiece", CORPUS, vocab_size=360, model_type="unigram")
    assert pieces.quick_of(tokenizer._processor, tokenizer._library) is None


def test_sentencepiece_begins_when_there_is_enough_text(build, monkeypatch):
    """As above."""
    monkeypatch.setattr(quick, "WORTH", 1)
    monkeypatch.setattr(quick.Choice, "_faster", lambda *_: True)
    tokenizer = build("sentencepiece", CORPUS, vocab_size=380)
    before = [tokenizer.encode(text) for text in CORPUS]
    assert tokenizer.encode_batch(CORPUS) == before
    assert isinstance(tokenizer._choose(CORPUS), quick.Quick)
    assert [each.tolist() for each in tokenizer.encode_arrays(CORPUS)] == before


def test_words_hold_every_piece():
    """The split of a sentencepiece model cuts no piece and leaves nothing out, also with a class for each script."""
    joined = [
        "ab",
        "bc",
        "\u2581a",
        "的狗",
        "狗敏",
        "!!",
        "\u2581\u2581",
        "12",
        "xy",
        "ζη",
        "жд",
        "ไท",
        "éè",
        "かな",
        "한국",
        "ab",
    ]
    splits = re.compile(re.sub(r"\\x\{(\w+)\}", lambda code: f"\\U{int(code[1], 16):08x}", pieces.words_of(joined)))
    for piece in (each.replace("\u2581", " ") for each in joined):
        assert splits.findall(piece) == [piece]
    text = "ab  的狗敏!\n\n é  xy皿😀12 "
    assert "".join(splits.findall(text)) == text
    assert splits.findall("abc的狗 皿皿") == ["abc", "的狗", " ", "皿", "皿"]
