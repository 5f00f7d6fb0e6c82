"""The tokenizer `char`: which characters have an id, and what becomes of the others."""

from tokenizers import Tokenizer

from llmx.options import structure
from llmx_tokenizers import CharOptions


def test_characters_are_ranked_by_frequency(build):
    """After 4 specials and 256 bytes come characters, the most frequent first, then by code point."""
    tokenizer = build("char", ["cba", "cb", "cz"])
    assert tokenizer.encode("cbaz") == [260, 261, 262, 263]
    assert tokenizer.vocab_size == 264
    assert tokenizer.encode("é") == [4 + byte for byte in "é".encode()]


def test_rare_characters_are_spelt_in_bytes(build):
    """`min_freq` and `vocab_size` leave the rarest characters to the bytes; 260 leaves all."""
    assert build("char", ["aab"], min_freq=2).encode("ab") == [260, 4 + ord("b")]
    assert build("char", ["aab"], vocab_size=261).encode("ab") == [260, 4 + ord("b")]
    assert build("char", ["aab"], vocab_size=260).encode("ab") == [4 + ord("a"), 4 + ord("b")]
    assert structure(CharOptions, {"vocab_size": 259}, "tokenizer")[1]


def test_a_character_that_names_a_special_token_is_none(build):
    """A special token of one character is not made from text, where the character is spelt in bytes."""
    tokenizer = build("char", ["§a"], special_tokens=["§"])
    assert tokenizer.special_id("§") == 4
    assert tokenizer.encode("§a") == [*(5 + byte for byte in "§".encode()), 261]


def test_long_texts_have_the_ids_of_the_library(build, tmp_path):
    """Known characters, bytes of one to four, and their borders: ids as the `tokenizers` library reads the file."""
    tokenizer = build("char", ["abc龘"])
    tokenizer.save(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("ab€c\x7f\x80߿ࠀ\uffff\U00010000\U0010ffff龘é" * 999, "€" * 999, "a" * 999, "€a", "a€", "龙"):
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
